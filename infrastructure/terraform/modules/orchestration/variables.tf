variable "context" {
  description = "What every module names things by."
  type = object({
    name            = string
    account         = string
    region          = string
    partition       = string
    pipeline_prefix = string
  })
}

variable "state_machines_dir" {
  description = "Folder of state machines, one NAME.asl.json a machine."
  type        = string
}

variable "schedules" {
  description = "When each state machine starts."
  type = map(object({
    state_machine = string
    expression    = string
    timezone      = string
  }))
}

variable "schedules_enabled" {
  description = "Whether the schedules fire."
  type        = bool
}

variable "kms_key_arn" {
  description = "Key of state machines, logs and the dead-letter queue."
  type        = string
}

variable "data_key_arn" {
  description = "Key of the bucket."
  type        = string
}

variable "bucket" {
  description = "Bucket in which PREFIX/nights/ holds the machines' state and reports."
  type        = object({ name = string, arn = string, prefix = string })
}

variable "topic_arns" {
  description = "Topics by what they carry: alerts, reports."
  type        = map(string)
}

variable "metrics_namespace" {
  description = "The one namespace that the machines publish metrics to."
  type        = string
}

variable "retention_days" {
  description = "Days that execution logs are kept."
  type        = number
}

variable "night" {
  description = "What a night trains and promotes: auto or manual; the policies by tier that stand in where nothing serves yet; what a tier's machines cost, what a run of it may cost, and what each definition costs at most."
  type = object({
    model_types   = set(string)
    promotion     = string
    serving_image = string
    policies      = map(string)
    usd_per_hour  = map(number)
    budgets_usd   = map(number)
    at_most_usd   = map(number)
  })

  validation {
    condition     = contains(["auto", "manual"], var.night.promotion)
    error_message = "stages.registration.promotion is ${var.night.promotion}: it must be auto or manual."
  }
}

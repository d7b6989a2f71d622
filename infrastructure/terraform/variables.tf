variable "environment" {
  description = "Name of the environment; each has its own account."
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "environment is ${var.environment}: it must be dev or prod."
  }
}

variable "configs_dir" {
  description = "Folder of configurations: environments/ENVIRONMENT.yaml says whose account it is and what things are called."
  type        = string
  default     = "../../configs"
}

variable "zones" {
  description = "Availability zones of the jobs' network, at most eight; each one more finds scarce instances more often."
  type        = list(string)
  default     = ["us-east-1a", "us-east-1b", "us-east-1c"]

  validation {
    condition     = length(var.zones) >= 1 && length(var.zones) <= 8 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones are ${join(", ", var.zones)}: name one to eight different ones."
  }
}

variable "tier_latency_ms" {
  description = "What each tier is served for: p95 of one token (Gold, Bronze) or of a response's start (Silver), in ms."
  type        = map(number)
  default     = { bronze = 760, silver = 250, gold = 16 }
}

variable "consumer_account_ids" {
  description = "Accounts that may read approved model packages, their policies and images, in order to serve them."
  type        = set(string)
  default     = []
}

variable "definitions_dir" {
  description = "Folder of compiled pipelines: what srl-rlvr compile --target sagemaker writes."
  type        = string
  default     = "../../build/sagemaker"
}

variable "state_machines_dir" {
  description = "Folder of state machines, one NAME.asl.json a machine."
  type        = string
  default     = "../../step_functions"
}

variable "catalogue_dir" {
  description = "Folder of what the metric catalogue generates: dashboards/NAME.json and alarms.json."
  type        = string
  default     = "../../build/monitoring"
}

variable "schedules" {
  description = "When each state machine starts: EventBridge Scheduler expression and time zone."
  type = map(object({
    state_machine = string
    expression    = string
    timezone      = optional(string, "UTC")
  }))
  default = {
    nightly = { state_machine = "nightly", expression = "cron(0 1 * * ? *)" }
  }
}

variable "alert_emails" {
  description = "Addresses that alerts and morning reports go to; each confirms its subscription once."
  type        = set(string)
}

variable "retention_days" {
  description = "Days that logs, superseded object versions and untagged images are kept."
  type        = number
  default     = 365
}

variable "checkpoint_days" {
  description = "Days after which a checkpoint expires: longer than the longest run with its retries."
  type        = number
  default     = 14

  validation {
    condition     = var.checkpoint_days >= 7
    error_message = "checkpoint_days is ${var.checkpoint_days}: a Bronze run trains up to 3 days and is retried, so keep at least 7."
  }
}

variable "served_trace_days" {
  description = "Days after which a served trace expires: nights read the day before, and players' words are kept no longer than a night may be repeated."
  type        = number
  default     = 30

  validation {
    condition     = var.served_trace_days >= 7
    error_message = "served_trace_days is ${var.served_trace_days}: a night that failed is repeated within a week, so keep at least 7."
  }
}

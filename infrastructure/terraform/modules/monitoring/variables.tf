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

variable "catalogue_dir" {
  description = "Folder of generated dashboards/NAME.json and alarms.json (requests of PutMetricAlarm)."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of topics and logs."
  type        = string
}

variable "schedules_enabled" {
  description = "Whether a night is expected every day; off, its absence sends no message."
  type        = bool
}

variable "alert_emails" {
  description = "Addresses subscribed to both topics."
  type        = set(string)
}

variable "monthly_budget_usd" {
  description = "Cost of a month at which the budget alerts."
  type        = number
}

variable "retention_days" {
  description = "Days that job logs are kept."
  type        = number
}

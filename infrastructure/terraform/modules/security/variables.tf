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

variable "consumer_account_ids" {
  description = "Accounts that may decrypt what the bucket lets them read."
  type        = set(string)
}

variable "secret_reader" {
  description = "Name of the one role that reads the teacher's API key."
  type        = string
}

variable "retention_days" {
  description = "Days that flow logs are kept."
  type        = number
}

variable "vpc_cidr" {
  description = "Address range of the jobs' network."
  type        = string
  default     = "10.64.0.0/16"
}

variable "zones" {
  description = "Availability zones to spread over."
  type        = list(string)
}

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

variable "model_types" {
  description = "Model types that are trained."
  type        = set(string)
}

variable "tier_latency_ms" {
  description = "Tiers, and the latency that each is served for."
  type        = map(number)
}

variable "consumer_account_ids" {
  description = "Accounts that promoted versions are handed to."
  type        = set(string)
}

variable "bucket" {
  description = "Bucket of the tracking server's artifacts."
  type        = object({ name = string, arn = string })
}

variable "tracking_server" {
  description = "Name of the tracking server."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of that bucket."
  type        = string
}

variable "mlflow" {
  description = "Version and size of the managed MLflow; Small serves about 25 people."
  type        = object({ version = string, size = string })
  default     = { version = "3.0", size = "Small" }
}

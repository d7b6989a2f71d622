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

variable "bucket" {
  description = "Name of the bucket, and the prefix of what pipelines write to it."
  type        = object({ name = string, prefix = string })
}

variable "image_registry" {
  description = "REGISTRY of REGISTRY/IMAGE:TAG: this account's ECR and a namespace."
  type        = string

  validation {
    condition     = startswith(var.image_registry, "${var.context.account}.dkr.ecr.${var.context.region}.")
    error_message = "image_registry is ${var.image_registry}: it must be an ECR namespace of account ${var.context.account} in ${var.context.region}."
  }
}

variable "kms_key_arn" {
  description = "Key of artifacts and images."
  type        = string
}

variable "consumer_account_ids" {
  description = "Accounts that may read registered policies and pull images."
  type        = set(string)
}

variable "checkpoint_days" {
  description = "Days after which a checkpoint expires."
  type        = number
}

variable "served_trace_days" {
  description = "Days after which a served trace expires."
  type        = number
}

variable "retention_days" {
  description = "Days that access logs and superseded versions are kept."
  type        = number
}

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

variable "definitions_dir" {
  description = "Folder of compiled pipelines: NAME.sagemaker.json and NAME.sagemaker.request.json of each."
  type        = string
}

variable "network" {
  description = "Where jobs run."
  type        = object({ subnets = list(string), security_groups = list(string) })
}

variable "kms_key_arn" {
  description = "Key of artifacts, images and volumes."
  type        = string
}

variable "teacher_secret_arn" {
  description = "Secret with the teacher's API key."
  type        = string
}

variable "bucket" {
  description = "Bucket of every artifact, and the prefix of what pipelines write to it."
  type        = object({ name = string, arn = string, prefix = string })
}

variable "repository_arns" {
  description = "Repositories that jobs pull from."
  type        = list(string)
}

variable "usd_per_hour" {
  description = "Price of each instance type, on demand."
  type        = map(number)
}

variable "tracking_server_arn" {
  description = "The managed MLflow."
  type        = string
}

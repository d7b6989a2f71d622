output "sagemaker_settings" {
  description = "What configs/environments says of the account: compilation writes it into the definitions."
  value = yamlencode({
    tracking_uri = module.registry.tracking_server_arn
    sagemaker = merge(local.account, {
      role_arn        = module.training.roles.pipeline
      roles           = module.training.roles.stages
      kms_key         = module.security.data_key_arn
      subnets         = module.security.network.subnets
      security_groups = module.security.network.security_groups
    })
  })
}

output "image_registry" {
  description = "Where images are pushed to: REGISTRY/IMAGE:TAG."
  value       = local.settings.image_registry
}

output "pipelines" {
  description = "ARN of each pipeline, by definition."
  value       = module.training.pipeline_arns
}

output "job_templates" {
  description = "Each tier's training requests as deployed, by definition and step."
  value       = module.training.job_templates
}

output "metrics_namespace" {
  description = "CloudWatch namespace of this environment's own metrics: the router's metrics_namespace."
  value       = module.monitoring.metrics_namespace
}

output "state_machines" {
  description = "ARN of each state machine."
  value       = module.orchestration.state_machine_arns
}

output "teacher_secret" {
  description = "Secret that the teacher's API key is put into, by hand."
  value       = module.security.teacher_secret_arn
}

output "at_most_usd" {
  description = "What one execution of each pipeline costs at most, on demand."
  value       = module.training.at_most_usd
}

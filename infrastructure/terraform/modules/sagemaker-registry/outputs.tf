output "tracking_server_arn" {
  value = aws_sagemaker_mlflow_tracking_server.this.arn
}

output "groups" {
  description = "Model package group names, by model type and tier."
  value       = { for key, group in aws_sagemaker_model_package_group.this : key => group.model_package_group_name }
}

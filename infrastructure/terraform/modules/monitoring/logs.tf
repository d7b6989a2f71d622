# SageMaker writes every job's output to these two groups; created here, they have a key and an end.
resource "aws_cloudwatch_log_group" "jobs" {
  for_each = toset(["ProcessingJobs", "TrainingJobs"])

  name              = "/aws/sagemaker/${each.key}"
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.retention_days
}

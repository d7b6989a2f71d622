output "pipeline_arns" {
  value = { for name, pipeline in aws_sagemaker_pipeline.this : name => pipeline.arn }
}

output "roles" {
  description = "Role of the pipelines, and of each stage's jobs."
  value = {
    pipeline = aws_iam_role.pipeline.arn
    stages   = { for stage, role in aws_iam_role.step : stage => role.arn }
  }
}

output "job_templates" {
  description = "Each tier's training requests as deployed, by definition and step."
  value = {
    for name, jobs in local.jobs : name => { for step, job in jobs : step => job.arguments if job.trains }
  }
}

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

output "at_most_usd" {
  description = "What one execution of each definition costs at most, on demand: every job at its time limit. Without a price, no entry."
  value = {
    for name, jobs in local.jobs : name => sum([
      for job in values(jobs) :
      var.usd_per_hour[job.machines.InstanceType] * job.machines.InstanceCount *
      job.arguments.StoppingCondition.MaxRuntimeInSeconds / 3600
      ]) if alltrue([
      for job in values(jobs) :
      can(var.usd_per_hour[job.machines.InstanceType] * job.arguments.StoppingCondition.MaxRuntimeInSeconds)
    ])
  }
}

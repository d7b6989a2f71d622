output "topic_arns" {
  description = "Topics by what they carry: alerts, reports."
  value       = { for name, topic in aws_sns_topic.this : name => topic.arn }
}

output "metrics_namespace" {
  description = "CloudWatch namespace of this environment's own metrics."
  value       = local.metrics_namespace
}

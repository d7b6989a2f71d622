output "data_key_arn" {
  value = aws_kms_key.data.arn
}

output "operations_key_arn" {
  value = aws_kms_key.operations.arn
}

output "teacher_secret_arn" {
  value = aws_secretsmanager_secret.teacher.arn
}

output "network" {
  description = "Where jobs run."
  value = {
    subnets         = [for subnet in aws_subnet.jobs : subnet.id]
    security_groups = [aws_security_group.jobs.id]
  }
}

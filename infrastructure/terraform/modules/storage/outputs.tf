output "bucket" {
  value = {
    name   = aws_s3_bucket.data.bucket
    arn    = aws_s3_bucket.data.arn
    prefix = var.bucket.prefix
  }
}

output "repository_arns" {
  value = [for repository in aws_ecr_repository.this : repository.arn]
}

# The teacher's API key. Its value is put in by hand, so that it is in no state, plan or log.

resource "aws_secretsmanager_secret" "teacher" {
  #checkov:skip=CKV2_AWS_57:the key is issued by the teacher's vendor, who offers no rotation to automate
  name        = "${var.context.name}/openrouter-api-key"
  description = "API key of the teacher's endpoint"
  kms_key_id  = aws_kms_key.data.arn
}

resource "aws_secretsmanager_secret_policy" "teacher" {
  secret_arn = aws_secretsmanager_secret.teacher.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OneReader"
      Effect    = "Deny"
      Principal = "*"
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "*"
      Condition = {
        ArnNotEquals = {
          "aws:PrincipalArn" = "arn:${var.context.partition}:iam::${var.context.account}:role/${var.secret_reader}"
        }
      }
    }]
  })
}

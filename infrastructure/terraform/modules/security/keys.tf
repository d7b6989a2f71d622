# Two keys: what the models are made of, and what operators read. Roles get their use of a key from their own policies.

locals {
  account_root = "arn:${var.context.partition}:iam::${var.context.account}:root"

  own_account = {
    Sid       = "OwnAccount"
    Effect    = "Allow"
    Principal = { AWS = local.account_root }
    Action    = "kms:*"
    Resource  = "*"
  }
  consumers = [
    for account in var.consumer_account_ids : {
      Sid       = "Consumer${account}"
      Effect    = "Allow"
      Principal = { AWS = "arn:${var.context.partition}:iam::${account}:root" }
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
      Resource  = "*"
      Condition = { StringEquals = { "kms:ViaService" = "s3.${var.context.region}.amazonaws.com" } }
    }
  ]
  logs = {
    Sid       = "Logs"
    Effect    = "Allow"
    Principal = { Service = "logs.${var.context.region}.amazonaws.com" }
    Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
    Resource  = "*"
    Condition = {
      ArnLike = {
        "kms:EncryptionContext:aws:logs:arn" = "arn:${var.context.partition}:logs:${var.context.region}:${var.context.account}:log-group:*"
      }
    }
  }
  notifications = {
    Sid    = "Notifications"
    Effect = "Allow"
    Principal = {
      Service = [
        "budgets.amazonaws.com",
        "cloudwatch.amazonaws.com",
        "costalerts.amazonaws.com",
        "events.amazonaws.com",
      ]
    }
    Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource  = "*"
    Condition = { StringEquals = { "aws:SourceAccount" = var.context.account } }
  }
}

resource "aws_kms_key" "data" {
  description         = "${var.context.name}: artifacts, images, volumes, the teacher's key"
  enable_key_rotation = true
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat([local.own_account], local.consumers)
  })
}

resource "aws_kms_alias" "data" {
  name          = "alias/${var.context.name}-data"
  target_key_id = aws_kms_key.data.key_id
}

resource "aws_kms_key" "operations" {
  description         = "${var.context.name}: logs, notifications, state machines"
  enable_key_rotation = true
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [local.own_account, local.logs, local.notifications]
  })
}

resource "aws_kms_alias" "operations" {
  name          = "alias/${var.context.name}-operations"
  target_key_id = aws_kms_key.operations.key_id
}

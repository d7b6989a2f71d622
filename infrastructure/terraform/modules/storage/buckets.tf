# One bucket for everything that stages hand on:
#   policies/  base models             PREFIX/runs/         what pipelines write
#   traces/    what players did        PREFIX/checkpoints/  until they expire
#   mlflow/    registered policies     PREFIX/nights/       state and morning reports of the state machines

locals {
  buckets = { data = aws_s3_bucket.data, logs = aws_s3_bucket.logs }
}

resource "aws_s3_bucket" "data" {
  #checkov:skip=CKV_AWS_144:every artifact is recomputed from traces and configuration; what serves is copied to the consumer's account
  bucket = var.bucket.name
}

resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV_AWS_144:access logs of one bucket, of no use without it
  #checkov:skip=CKV_AWS_145:S3 delivers access logs only to buckets with its own encryption, not with KMS keys
  #checkov:skip=CKV_AWS_18:a log bucket that logs its own deliveries never comes to rest
  #checkov:skip=CKV2_AWS_62:nothing acts on an access log's arrival
  bucket = "${var.bucket.name}-access-logs"
}

resource "aws_s3_bucket_server_side_encryption_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = local.buckets

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_logging" "data" {
  bucket        = aws_s3_bucket.data.id
  target_bucket = aws_s3_bucket.logs.id
  target_prefix = "data/"
}

# Arrivals, of traces above all, are events on the default bus.
resource "aws_s3_bucket_notification" "data" {
  bucket      = aws_s3_bucket.data.id
  eventbridge = true
}

resource "aws_s3_bucket_lifecycle_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    id     = "checkpoints"
    status = "Enabled"

    filter {
      prefix = "${var.bucket.prefix}/checkpoints/"
    }

    expiration {
      days = var.checkpoint_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  # Players' words: what is learnt from them lies in traces/collected/.
  rule {
    id     = "served-traces"
    status = "Enabled"

    filter {
      prefix = "traces/served/"
    }

    expiration {
      days = var.served_trace_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  rule {
    id     = "everything"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = var.retention_days
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id

  rule {
    id     = "everything"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    expiration {
      days = var.retention_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_policy" "data" {
  bucket = aws_s3_bucket.data.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([local.tls_only["data"]], [
      for account in var.consumer_account_ids : {
        Sid       = "Consumer${account}"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.context.partition}:iam::${account}:root" }
        Action    = "s3:GetObject"
        Resource  = "${aws_s3_bucket.data.arn}/mlflow/*"
      }
      ], [
      # Who serves players ships what its routers answered: docs/monitoring.md.
      for account in var.consumer_account_ids : {
        Sid       = "Served${account}"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.context.partition}:iam::${account}:root" }
        Action    = ["s3:AbortMultipartUpload", "s3:PutObject"]
        Resource  = "${aws_s3_bucket.data.arn}/traces/served/*"
      }
      ], [
      # A router asks whether a file came through whose answer it never got: names alone, no line of a trace.
      for account in var.consumer_account_ids : {
        Sid       = "ServedNames${account}"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.context.partition}:iam::${account}:root" }
        Action    = "s3:ListBucket"
        Resource  = aws_s3_bucket.data.arn
        Condition = { StringLike = { "s3:prefix" = "traces/served/*" } }
      }
    ])
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_policy" "logs" {
  bucket = aws_s3_bucket.logs.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.tls_only["logs"],
      {
        Sid       = "AccessLogs"
        Effect    = "Allow"
        Principal = { Service = "logging.s3.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = "${aws_s3_bucket.logs.arn}/data/*"
        Condition = {
          ArnEquals    = { "aws:SourceArn" = aws_s3_bucket.data.arn }
          StringEquals = { "aws:SourceAccount" = var.context.account }
        }
      },
    ]
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

locals {
  tls_only = {
    for name, bucket in local.buckets : name => {
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [bucket.arn, "${bucket.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }
  }
}

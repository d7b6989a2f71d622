# One repository an image of containers/. A tag is never moved, so a definition's images are what was tested.

locals {
  images    = toset(["data", "training", "serving"])
  namespace = split("/", var.image_registry)[1]
}

resource "aws_ecr_repository" "this" {
  for_each = local.images

  name                 = "${local.namespace}/${each.key}"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.kms_key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each = aws_ecr_repository.this

  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Images that no tag names"
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_ecr_repository_policy" "serving" {
  count = length(var.consumer_account_ids) > 0 ? 1 : 0

  repository = aws_ecr_repository.this["serving"].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Consumers"
      Effect    = "Allow"
      Principal = { AWS = [for account in var.consumer_account_ids : "arn:${var.context.partition}:iam::${account}:root"] }
      Action    = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    }]
  })
}

# One model package group a model type and tier. What a version measured is its own metadata; the group says what the
# versions are for and, by the tags that jobs carry too, what they cost.

locals {
  groups = {
    for pair in setproduct(var.model_types, keys(var.tier_latency_ms)) :
    "${replace(pair[0], "_", "-")}-${pair[1]}" => { model_type = pair[0], tier = pair[1] }
  }
}

resource "aws_sagemaker_model_package_group" "this" {
  for_each = local.groups

  model_package_group_name        = "${var.context.name}-${each.key}"
  model_package_group_description = "${each.value.model_type} on ${each.value.tier}"

  tags = {
    tier              = each.value.tier
    model-type        = each.value.model_type
    latency-target-ms = var.tier_latency_ms[each.value.tier]
  }
}

# A consumer sees the versions and makes models of them; approving stays with this account.
resource "aws_sagemaker_model_package_group_policy" "promotion" {
  for_each = length(var.consumer_account_ids) > 0 ? aws_sagemaker_model_package_group.this : {}

  model_package_group_name = each.value.model_package_group_name
  resource_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Group"
        Effect    = "Allow"
        Principal = { AWS = local.consumers }
        Action    = ["sagemaker:DescribeModelPackageGroup"]
        Resource  = each.value.arn
      },
      {
        Sid       = "Versions"
        Effect    = "Allow"
        Principal = { AWS = local.consumers }
        Action    = ["sagemaker:CreateModel", "sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"]
        Resource  = "${replace(each.value.arn, ":model-package-group/", ":model-package/")}/*"
      },
    ]
  })
}

locals {
  consumers = [for account in var.consumer_account_ids : "arn:${var.context.partition}:iam::${account}:root"]
}

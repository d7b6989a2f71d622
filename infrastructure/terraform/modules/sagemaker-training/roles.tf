locals {
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "sagemaker.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.context.account } }
    }]
  })
}

resource "aws_iam_role" "step" {
  for_each = local.stages

  name               = "${var.context.name}-${replace(each.key, "_", "-")}"
  description        = "Jobs of the stage ${each.key}"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "data" {
  for_each = aws_iam_role.step

  name   = "data"
  role   = each.value.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.data_access[each.key] })
}

resource "aws_iam_role_policy" "job" {
  #checkov:skip=CKV_AWS_290:ecr:GetAuthorizationToken and cloudwatch:PutMetricData name no resource; the latter is held to namespaces
  #checkov:skip=CKV_AWS_355:ecr:GetAuthorizationToken, cloudwatch:PutMetricData and ec2:Describe* name no resource
  for_each = aws_iam_role.step

  name   = "job"
  role   = each.value.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.job_access })
}

resource "aws_iam_role_policy" "teacher" {
  name = "teacher"
  role = aws_iam_role.step["trajectory_generation"].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = var.teacher_secret_arn
    }]
  })
}

resource "aws_iam_role_policy" "registry" {
  name   = "registry"
  role   = aws_iam_role.step["registration"].name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.registry_access })
}

resource "aws_iam_role_policy" "versions" {
  name   = "versions"
  role   = aws_iam_role.step["selection"].name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.versions_access })
}

resource "aws_iam_role_policy" "collected" {
  name   = "collected"
  role   = aws_iam_role.step["trace_collection"].name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.collected_access })
}

resource "aws_iam_role" "pipeline" {
  name               = "${var.context.name}-pipeline"
  description        = "Starts the jobs of every pipeline"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "pipeline" {
  name   = "jobs"
  role   = aws_iam_role.pipeline.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.pipeline_access })
}

# A machine may do what its definition does, if this page knows the call: the intersection becomes its policy. The page
# bounds what any machine may ever touch; the definition keeps each one's policy to what it uses.

locals {
  arn = "arn:${var.context.partition}"
  own = "${var.context.region}:${var.context.account}"

  pipelines  = ["${local.arn}:sagemaker:${local.own}:pipeline/${var.context.pipeline_prefix}-*"]
  versions   = ["${local.arn}:sagemaker:${local.own}:model-package/${var.context.name}-*"]
  groups     = ["${local.arn}:sagemaker:${local.own}:model-package-group/${var.context.name}-*"]
  jobs       = ["${local.arn}:sagemaker:${local.own}:processing-job/pipelines-*"]
  machines   = ["${local.arn}:states:${local.own}:stateMachine:${var.context.name}-*"]
  executions = ["${local.arn}:states:${local.own}:execution:${var.context.name}-*"]
  nights     = ["${var.bucket.arn}/${var.bucket.prefix}/nights/*"]
  # What a run left: its registration's report, the evidence behind it, whether its trajectories are whole; and what was
  # collected of production.
  reports = [
    "${var.bucket.arn}/${var.bucket.prefix}/runs/*/register-*/*",
    "${var.bucket.arn}/${var.bucket.prefix}/runs/*/evaluation/*",
    "${var.bucket.arn}/${var.bucket.prefix}/runs/*/distill-*/*",
    "${var.bucket.arn}/${var.bucket.prefix}/runs/*/verification/*",
    "${var.bucket.arn}/traces/collected/*",
  ]

  # Call as a state's Resource names it => IAM action, resources.
  known_calls = {
    "cloudwatch:putMetricData" = { action = "cloudwatch:PutMetricData", resources = ["*"] }
    "s3:deleteObject"          = { action = "s3:DeleteObject", resources = local.nights }
    "s3:getObject"             = { action = "s3:GetObject", resources = concat(local.nights, local.reports) }
    "s3:listObjectsV2"         = { action = "s3:ListBucket", resources = [var.bucket.arn] }
    "s3:putObject"             = { action = "s3:PutObject", resources = local.nights }
    "sagemaker:createModelPackage" = {
      action = "sagemaker:CreateModelPackage", resources = concat(local.versions, local.groups)
    }
    "sagemaker:describeModelPackage"      = { action = "sagemaker:DescribeModelPackage", resources = local.versions }
    "sagemaker:describePipelineExecution" = { action = "sagemaker:DescribePipelineExecution", resources = local.pipelines }
    "sagemaker:describeProcessingJob"     = { action = "sagemaker:DescribeProcessingJob", resources = local.jobs }
    "sagemaker:listModelPackages"         = { action = "sagemaker:ListModelPackages", resources = local.versions }
    "sagemaker:listPipelineExecutions"    = { action = "sagemaker:ListPipelineExecutions", resources = local.pipelines }
    "sagemaker:listPipelineExecutionSteps" = {
      action = "sagemaker:ListPipelineExecutionSteps", resources = local.pipelines
    }
    "sagemaker:retryPipelineExecution" = { action = "sagemaker:RetryPipelineExecution", resources = local.pipelines }
    "sagemaker:startPipelineExecution" = { action = "sagemaker:StartPipelineExecution", resources = local.pipelines }
    "sagemaker:stopPipelineExecution"  = { action = "sagemaker:StopPipelineExecution", resources = local.pipelines }
    "sagemaker:updateModelPackage"     = { action = "sagemaker:UpdateModelPackage", resources = local.versions }
    "sfn:describeExecution"            = { action = "states:DescribeExecution", resources = local.executions }
    "sfn:startExecution"               = { action = "states:StartExecution", resources = local.machines }
    "sfn:stopExecution"                = { action = "states:StopExecution", resources = local.executions }
    "states:startExecution.sync:2"     = { action = "states:StartExecution", resources = local.machines }
    "sns:publish"                      = { action = "sns:Publish", resources = values(var.topic_arns) }
  }
  # What a call needs beside its own action: to wait for an execution, Step Functions has a rule of its own made.
  accompanying = {
    "states:startExecution.sync:2" = [
      { Effect = "Allow", Action = ["states:DescribeExecution", "states:StopExecution"], Resource = local.executions },
      {
        Effect   = "Allow"
        Action   = ["events:DescribeRule", "events:PutRule", "events:PutTargets"]
        Resource = ["${local.arn}:events:${local.own}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"]
      },
    ]
  }
  conditions = {
    "cloudwatch:PutMetricData" = { StringEquals = { "cloudwatch:namespace" = var.metrics_namespace } }
    "s3:ListBucket"            = { StringLike = { "s3:prefix" = ["${var.bucket.prefix}/nights/*"] } }
  }

  calls = {
    for name, file in local.files : name => sort(distinct([
      for call in regexall("\"arn:aws[a-z-]*:states:::(?:aws-sdk:)?([a-zA-Z0-9:.]+)\"", file(file)) : call[0]
    ]))
  }
  unknown_calls = {
    for name, calls in local.calls : name => [for call in calls : call if !contains(keys(local.known_calls), call)]
  }
}

resource "aws_iam_role" "machine" {
  for_each = local.files

  name        = "${var.context.name}-machine-${each.key}"
  description = "The state machine ${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "states.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.context.account } }
    }]
  })
}

resource "aws_iam_role_policy" "machine" {
  #checkov:skip=CKV_AWS_290:cloudwatch:PutMetricData names no resource and is held to one namespace
  #checkov:skip=CKV_AWS_355:cloudwatch:PutMetricData names no resource and is held to one namespace
  for_each = local.files

  name = "calls"
  role = aws_iam_role.machine[each.key].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        for call in local.calls[each.key] : merge(
          {
            Effect   = "Allow"
            Action   = [local.known_calls[call].action]
            Resource = local.known_calls[call].resources
          },
          { for key in ["Condition"] : key => local.conditions[local.known_calls[call].action]
          if contains(keys(local.conditions), local.known_calls[call].action) },
        ) if contains(keys(local.known_calls), call)
      ],
      flatten([for call in local.calls[each.key] : lookup(local.accompanying, call, [])]),
    )
  })
}

resource "aws_iam_role_policy" "runtime" {
  #checkov:skip=CKV_AWS_290:the log delivery and X-Ray actions name no resource
  #checkov:skip=CKV_AWS_355:the log delivery and X-Ray actions name no resource
  for_each = local.files

  name = "runtime"
  role = aws_iam_role.machine[each.key].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Keys"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = [var.kms_key_arn, var.data_key_arn]
      },
      {
        Sid    = "LogDelivery"
        Effect = "Allow"
        Action = [
          "logs:CreateLogDelivery",
          "logs:DeleteLogDelivery",
          "logs:DescribeLogGroups",
          "logs:DescribeResourcePolicies",
          "logs:GetLogDelivery",
          "logs:ListLogDeliveries",
          "logs:PutResourcePolicy",
          "logs:UpdateLogDelivery",
        ]
        Resource = ["*"]
      },
      {
        Sid      = "Traces"
        Effect   = "Allow"
        Action   = ["xray:GetSamplingRules", "xray:GetSamplingTargets", "xray:PutTelemetryRecords", "xray:PutTraceSegments"]
        Resource = ["*"]
      },
    ]
  })
}

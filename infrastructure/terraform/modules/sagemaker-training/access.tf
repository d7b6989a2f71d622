# The statements of roles.tf: what a job, a stage and the pipelines need, by resource.

locals {
  arn = "arn:${var.context.partition}"
  own = "${var.context.region}:${var.context.account}"

  # Jobs that a pipeline starts are named after it by SageMaker.
  own_jobs = {
    for kind in ["processing", "training"] : kind => "${local.arn}:sagemaker:${local.own}:${kind}-job/pipelines-*"
  }

  data_access = {
    for name in keys(local.stages) : name => [
      {
        Sid      = "Read"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for prefix in local.reads[name] : "${var.bucket.arn}/${prefix}*"]
      },
      {
        Sid      = "Write"
        Effect   = "Allow"
        Action   = ["s3:AbortMultipartUpload", "s3:PutObject"]
        Resource = [for prefix in local.writes[name] : "${var.bucket.arn}/${prefix}*"]
      },
      {
        Sid       = "List"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [var.bucket.arn]
        Condition = { StringLike = { "s3:prefix" = [for prefix in local.reads[name] : "${prefix}*"] } }
      },
      {
        Sid      = "Key"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
        Resource = [var.kms_key_arn]
      },
      local.volumes,
    ]
  }

  # A volume's key is granted to the service that attaches it.
  volumes = {
    Sid       = "Volumes"
    Effect    = "Allow"
    Action    = ["kms:CreateGrant"]
    Resource  = [var.kms_key_arn]
    Condition = { Bool = { "kms:GrantIsForAWSResource" = "true" } }
  }

  job_access = [
    {
      Sid      = "Image"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = var.repository_arns
    },
    {
      Sid      = "ImageToken"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"]
    },
    {
      Sid      = "Logs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = ["${local.arn}:logs:${local.own}:log-group:/aws/sagemaker/*"]
    },
    {
      Sid       = "Metrics"
      Effect    = "Allow"
      Action    = ["cloudwatch:PutMetricData"]
      Resource  = ["*"]
      Condition = { StringLike = { "cloudwatch:namespace" = "/aws/sagemaker/*" } }
    },
    {
      Sid    = "NewInterface"
      Effect = "Allow"
      Action = ["ec2:CreateNetworkInterface"]
      Resource = [
        for kind in ["network-interface", "security-group", "subnet"] : "${local.arn}:ec2:${local.own}:${kind}/*"
      ]
    },
    {
      Sid    = "Interfaces"
      Effect = "Allow"
      Action = [
        "ec2:CreateNetworkInterfacePermission",
        "ec2:DeleteNetworkInterface",
        "ec2:DeleteNetworkInterfacePermission",
      ]
      Resource = ["${local.arn}:ec2:${local.own}:network-interface/*"]
    },
    {
      Sid    = "Network"
      Effect = "Allow"
      Action = [
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
      ]
      Resource = ["*"]
    },
  ]

  registry_access = [
    {
      Sid    = "Versions"
      Effect = "Allow"
      Action = [
        "sagemaker-mlflow:CreateExperiment",
        "sagemaker-mlflow:CreateModelVersion",
        "sagemaker-mlflow:CreateRegisteredModel",
        "sagemaker-mlflow:CreateRun",
        "sagemaker-mlflow:DeleteModelVersion",
        "sagemaker-mlflow:DeleteModelVersionTag",
        "sagemaker-mlflow:DeleteRegisteredModelAlias",
        "sagemaker-mlflow:DeleteRun",
        "sagemaker-mlflow:GetExperimentByName",
        "sagemaker-mlflow:GetModelVersion",
        "sagemaker-mlflow:GetRegisteredModel",
        "sagemaker-mlflow:GetRun",
        "sagemaker-mlflow:LogBatch",
        "sagemaker-mlflow:SearchModelVersions",
        "sagemaker-mlflow:SearchRuns",
        "sagemaker-mlflow:SetModelVersionTag",
        "sagemaker-mlflow:SetRegisteredModelAlias",
        "sagemaker-mlflow:SetTag",
        "sagemaker-mlflow:UpdateRun",
      ]
      Resource = [var.tracking_server_arn]
    },
  ]

  versions_access = [
    {
      Sid      = "Packages"
      Effect   = "Allow"
      Action   = ["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"]
      Resource = ["${local.arn}:sagemaker:${local.own}:model-package/${var.context.name}-*"]
    },
  ]

  # A collection that is repeated replaces its artifact, whose manifest goes first.
  collected_access = [
    {
      Sid      = "Replace"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject"]
      Resource = ["${var.bucket.arn}/traces/collected/*"]
    },
  ]

  pipeline_access = [
    {
      Sid    = "Processing"
      Effect = "Allow"
      Action = [
        "sagemaker:AddTags",
        "sagemaker:CreateProcessingJob",
        "sagemaker:DescribeProcessingJob",
        "sagemaker:StopProcessingJob",
      ]
      Resource = [local.own_jobs.processing]
    },
    {
      Sid    = "Training"
      Effect = "Allow"
      Action = [
        "sagemaker:AddTags",
        "sagemaker:CreateTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
      ]
      Resource = [local.own_jobs.training]
    },
    # Every execution is a trial of its pipeline's experiment, and every step a component of the trial.
    {
      Sid    = "Experiment"
      Effect = "Allow"
      Action = [
        "sagemaker:AddTags",
        "sagemaker:CreateExperiment",
        "sagemaker:CreateTrial",
        "sagemaker:DescribeExperiment",
      ]
      Resource = ["${local.arn}:sagemaker:${local.own}:experiment/${var.context.pipeline_prefix}-*"]
    },
    {
      Sid    = "Trial"
      Effect = "Allow"
      Action = [
        "sagemaker:AddTags",
        "sagemaker:AssociateTrialComponent",
        "sagemaker:CreateTrial",
        "sagemaker:DescribeTrial",
      ]
      Resource = ["${local.arn}:sagemaker:${local.own}:experiment-trial/*"]
    },
    {
      Sid    = "TrialComponent"
      Effect = "Allow"
      Action = [
        "sagemaker:AddTags",
        "sagemaker:AssociateTrialComponent",
        "sagemaker:CreateTrialComponent",
        "sagemaker:DescribeTrialComponent",
        "sagemaker:UpdateTrialComponent",
      ]
      Resource = ["${local.arn}:sagemaker:${local.own}:experiment-trial-component/*"]
    },
    {
      Sid       = "StepRoles"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = [for role in aws_iam_role.step : role.arn]
      Condition = { StringEquals = { "iam:PassedToService" = "sagemaker.amazonaws.com" } }
    },
    {
      Sid      = "Conditions" # a condition reads its number from a report
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${var.bucket.arn}/${var.bucket.prefix}/runs/*"]
    },
    {
      Sid      = "Key"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:DescribeKey"]
      Resource = [var.kms_key_arn]
    },
    local.volumes,
  ]
}

# Registration writes versions itself; a server that registered on its own would do it a second time.
resource "aws_sagemaker_mlflow_tracking_server" "this" {
  tracking_server_name         = var.tracking_server
  artifact_store_uri           = "s3://${var.bucket.name}/mlflow"
  role_arn                     = aws_iam_role.mlflow.arn
  mlflow_version               = var.mlflow.version
  tracking_server_size         = var.mlflow.size
  automatic_model_registration = false

  depends_on = [aws_iam_role_policy.mlflow]
}

resource "aws_iam_role" "mlflow" {
  name = "${var.context.name}-mlflow"
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

resource "aws_iam_role_policy" "mlflow" {
  name = "artifact-store"
  role = aws_iam_role.mlflow.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Artifacts"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = "${var.bucket.arn}/mlflow/*"
      },
      {
        Sid       = "List"
        Effect    = "Allow"
        Action    = "s3:ListBucket"
        Resource  = var.bucket.arn
        Condition = { StringLike = { "s3:prefix" = ["mlflow", "mlflow/*"] } }
      },
      {
        Sid      = "Key"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = var.kms_key_arn
      },
    ]
  })
}

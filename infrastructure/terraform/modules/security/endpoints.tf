# What the jobs reach of AWS, without leaving it: only with this account's credentials.

locals {
  endpoints = {
    cloudwatch     = "com.amazonaws.${var.context.region}.monitoring"
    ecr_api        = "com.amazonaws.${var.context.region}.ecr.api"
    ecr_docker     = "com.amazonaws.${var.context.region}.ecr.dkr"
    kms            = "com.amazonaws.${var.context.region}.kms"
    logs           = "com.amazonaws.${var.context.region}.logs"
    mlflow         = "aws.sagemaker.${var.context.region}.experiments"
    sagemaker_api  = "com.amazonaws.${var.context.region}.sagemaker.api"
    secretsmanager = "com.amazonaws.${var.context.region}.secretsmanager"
    sts            = "com.amazonaws.${var.context.region}.sts"
  }

  own_credentials = {
    Sid       = "OwnCredentials"
    Effect    = "Allow"
    Principal = "*"
    Action    = "*"
    Resource  = "*"
    Condition = { StringEquals = { "aws:PrincipalAccount" = var.context.account } }
  }
  # ECR serves layers from its own bucket, by signed URLs that carry no principal of ours.
  image_layers = {
    Sid       = "ImageLayers"
    Effect    = "Allow"
    Principal = "*"
    Action    = "s3:GetObject"
    Resource  = "arn:${var.context.partition}:s3:::prod-${var.context.region}-starport-layer-bucket/*"
  }
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.endpoints

  vpc_id              = aws_vpc.this.id
  service_name        = each.value
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for subnet in aws_subnet.jobs : subnet.id]
  security_group_ids  = [aws_security_group.endpoints.id]
  policy              = jsonencode({ Version = "2012-10-17", Statement = [local.own_credentials] })
  tags                = { Name = "${var.context.name}-${each.key}" }
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.context.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.jobs.id]
  policy            = jsonencode({ Version = "2012-10-17", Statement = [local.own_credentials, local.image_layers] })
  tags              = { Name = "${var.context.name}-s3" }
}

resource "aws_security_group" "endpoints" {
  name        = "${var.context.name}-endpoints"
  description = "AWS APIs inside the network"
  vpc_id      = aws_vpc.this.id
}

resource "aws_security_group" "jobs" {
  #checkov:skip=CKV2_AWS_5:the pipelines' definitions attach it to their jobs
  name        = "${var.context.name}-jobs"
  description = "Jobs: one another, and HTTPS out"
  vpc_id      = aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  security_group_id            = aws_security_group.endpoints.id
  description                  = "HTTPS from the jobs"
  referenced_security_group_id = aws_security_group.jobs.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

# The elastic fabric adapter of multi-node training needs every protocol, both ways, within the group.
resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = aws_security_group.jobs.id
  description                  = "Nodes of one job"
  referenced_security_group_id = aws_security_group.jobs.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "nodes" {
  security_group_id            = aws_security_group.jobs.id
  description                  = "Nodes of one job"
  referenced_security_group_id = aws_security_group.jobs.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.jobs.id
  description       = "AWS and the teacher's API"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

locals {
  files = {
    for file in fileset(var.state_machines_dir, "*.asl.json") :
    replace(trimsuffix(file, ".asl.json"), "_", "-") => "${var.state_machines_dir}/${file}"
  }

  # What a machine's ${placeholders} may name.
  bindings = merge({
    account           = var.context.account
    region            = var.context.region
    partition         = var.context.partition
    name              = var.context.name
    bucket            = var.bucket.name
    nights            = "${var.bucket.prefix}/nights"
    pipeline_prefix   = var.context.pipeline_prefix
    alerts_topic      = var.topic_arns["alerts"]
    reports_topic     = var.topic_arns["reports"]
    metrics_namespace = var.metrics_namespace
    model_types       = join(",", var.night.model_types)
    promotion         = var.night.promotion
    serving_image     = var.night.serving_image
    },
    { for tier, uri in var.night.policies : "${tier}_base" => "${trimsuffix(uri, "/")}/" },
    { for tier, usd in var.night.usd_per_hour : "${tier}_usd_per_hour" => usd },
    # JSONata's objects; its texts take single quotes, and the machine's own are JSON's.
    { for key in ["budgets_usd", "at_most_usd"] : key => replace(jsonencode(var.night[key]), "\"", "'") },
  )
  definitions = { for name, file in local.files : name => templatefile(file, local.bindings) }
}

resource "aws_sfn_state_machine" "this" {
  for_each = local.files

  name       = "${var.context.name}-${each.key}"
  role_arn   = aws_iam_role.machine[each.key].arn
  definition = local.definitions[each.key]
  type       = "STANDARD"

  logging_configuration {
    level                  = "ALL"
    include_execution_data = true
    log_destination        = "${aws_cloudwatch_log_group.machines.arn}:*"
  }

  tracing_configuration {
    enabled = true
  }

  encryption_configuration {
    type       = "CUSTOMER_MANAGED_KMS_KEY"
    kms_key_id = var.kms_key_arn
  }

  lifecycle {
    precondition {
      condition     = length(local.unknown_calls[each.key]) == 0
      error_message = "${each.value} calls ${join(", ", local.unknown_calls[each.key])}: allow it in access.tf, with the resources that it may touch, or leave it out."
    }
  }

  depends_on = [aws_iam_role_policy.machine, aws_iam_role_policy.runtime]
}

resource "aws_cloudwatch_log_group" "machines" {
  name              = "/aws/vendedlogs/states/${var.context.name}"
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.retention_days
}

# Two topics, so that every end of a night arrives once: `reports` is written by the state machines alone, `alerts` by
# AWS (alarms, failed executions, cost).

locals {
  topics = toset(["alerts", "reports"])
}

resource "aws_sns_topic" "this" {
  for_each = local.topics

  name              = "${var.context.name}-${each.key}"
  kms_master_key_id = var.kms_key_arn
}

resource "aws_sns_topic_subscription" "email" {
  for_each = { for pair in setproduct(local.topics, var.alert_emails) : "${pair[0]}/${pair[1]}" => pair }

  topic_arn = aws_sns_topic.this[each.value[0]].arn
  protocol  = "email"
  endpoint  = each.value[1]
}

resource "aws_sns_topic_policy" "alerts" {
  arn = aws_sns_topic.this["alerts"].arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid    = "Alerts"
      Effect = "Allow"
      Principal = {
        Service = [
          "budgets.amazonaws.com",
          "cloudwatch.amazonaws.com",
          "costalerts.amazonaws.com",
          "events.amazonaws.com",
        ]
      }
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.this["alerts"].arn
      Condition = { StringEquals = { "aws:SourceAccount" = var.context.account } }
    }]
  })
}

# The second path of a failure, should the state machine be what failed.
resource "aws_cloudwatch_event_rule" "failure" {
  for_each = {
    pipeline = {
      source        = ["aws.sagemaker"]
      "detail-type" = ["SageMaker Model Building Pipeline Execution Status Change"]
      detail = {
        pipelineArn                    = [{ prefix = "arn:${var.context.partition}:sagemaker:${var.context.region}:${var.context.account}:pipeline/${var.context.pipeline_prefix}-" }]
        currentPipelineExecutionStatus = ["Failed", "Stopped"]
      }
    }
    state-machine = {
      source        = ["aws.states"]
      "detail-type" = ["Step Functions Execution Status Change"]
      detail = {
        stateMachineArn = [{ prefix = "arn:${var.context.partition}:states:${var.context.region}:${var.context.account}:stateMachine:${var.context.name}-" }]
        status          = ["ABORTED", "FAILED", "TIMED_OUT"]
      }
    }
  }

  name          = "${var.context.name}-${each.key}-failed"
  event_pattern = jsonencode(each.value)
}

resource "aws_cloudwatch_event_target" "failure" {
  for_each = aws_cloudwatch_event_rule.failure

  rule = each.value.name
  arn  = aws_sns_topic.this["alerts"].arn
}

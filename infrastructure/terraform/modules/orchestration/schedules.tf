resource "aws_scheduler_schedule_group" "this" {
  name = var.context.name
}

resource "aws_scheduler_schedule" "this" {
  for_each = var.schedules

  name                         = each.key
  group_name                   = aws_scheduler_schedule_group.this.name
  state                        = var.schedules_enabled ? "ENABLED" : "DISABLED"
  schedule_expression          = each.value.expression
  schedule_expression_timezone = each.value.timezone
  kms_key_arn                  = var.kms_key_arn

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_sfn_state_machine.this[replace(each.value.state_machine, "_", "-")].arn
    role_arn = aws_iam_role.scheduler.arn
    # The scheduled time is the same at every attempt, so it can name the night. The scheduler fills it in before it reads
    # the JSON, and would not know it by the escapes that jsonencode makes of its brackets.
    input = replace(replace(jsonencode({ scheduled = "<aws.scheduler.scheduled-time>" }), "\\u003c", "<"), "\\u003e", ">")

    # By default a start is tried 185 times in a day: a night that cannot start within the hour is for a person.
    retry_policy {
      maximum_retry_attempts       = 3
      maximum_event_age_in_seconds = 3600
    }

    dead_letter_config {
      arn = aws_sqs_queue.dead_letters.arn
    }
  }

  lifecycle {
    precondition {
      condition     = contains(keys(local.files), replace(each.value.state_machine, "_", "-"))
      error_message = "Schedule ${each.key} starts ${each.value.state_machine}, which ${var.state_machines_dir} does not hold: add ${each.value.state_machine}.asl.json or leave the schedule out."
    }
  }
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.context.name}-schedules-dead"
  kms_master_key_id         = var.kms_key_arn
  message_retention_seconds = 1209600
}

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  alarm_name          = "${var.context.name}-schedule-failed"
  alarm_description   = "A schedule could not start its state machine. Runbook: docs/recovery/night-not-started.md"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.topic_arns["alerts"]]
}

resource "aws_iam_role" "scheduler" {
  name        = "${var.context.name}-scheduler"
  description = "Starts the state machines"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.context.account } }
    }]
  })
}

resource "aws_iam_role_policy" "scheduler" {
  name = "start"
  role = aws_iam_role.scheduler.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Start"
        Effect   = "Allow"
        Action   = ["states:StartExecution"]
        Resource = [for machine in aws_sfn_state_machine.this : machine.arn]
      },
      {
        Sid      = "DeadLetters"
        Effect   = "Allow"
        Action   = ["sqs:SendMessage"]
        Resource = [aws_sqs_queue.dead_letters.arn]
      },
      {
        Sid      = "Key"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = [var.kms_key_arn]
      },
    ]
  })
}

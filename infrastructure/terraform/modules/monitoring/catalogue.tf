# Dashboards and alarms as the metric catalogue generates them: an alarm is a request of CloudWatch's PutMetricAlarm.

locals {
  dashboards = {
    for file in fileset(var.catalogue_dir, "dashboards/*.json") :
    trimsuffix(basename(file), ".json") => "${var.catalogue_dir}/${file}"
  }
  alarms = {
    for alarm in try(jsondecode(file("${var.catalogue_dir}/alarms.json")), []) : alarm.AlarmName => alarm
  }
  metrics_namespace = "SrlRlvr/${var.context.name}"
  # What a dashboard's ${placeholders} may name.
  catalogue = {
    account   = var.context.account
    partition = var.context.partition
    region    = var.context.region
    namespace = local.metrics_namespace
    name      = var.context.name
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  for_each = local.dashboards

  dashboard_name = "${var.context.name}-${each.key}"
  dashboard_body = templatefile(each.value, local.catalogue)
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.context.name}-${each.key}"
  alarm_description   = each.value.AlarmDescription
  comparison_operator = each.value.ComparisonOperator
  evaluation_periods  = each.value.EvaluationPeriods
  datapoints_to_alarm = try(each.value.DatapointsToAlarm, null)
  threshold           = try(each.value.Threshold, null)
  treat_missing_data  = try(each.value.TreatMissingData, null)
  threshold_metric_id = try(each.value.ThresholdMetricId, null)

  metric_name        = try(each.value.MetricName, null)
  namespace          = can(each.value.MetricName) ? try(each.value.Namespace, local.metrics_namespace) : null
  period             = try(each.value.Period, null)
  statistic          = try(each.value.Statistic, null)
  extended_statistic = try(each.value.ExtendedStatistic, null)
  unit               = try(each.value.Unit, null)
  dimensions         = try({ for dimension in each.value.Dimensions : dimension.Name => dimension.Value }, null)

  # Where nights are started by hand, none is missed.
  actions_enabled = var.schedules_enabled || each.key != "night-missing"

  alarm_actions = [aws_sns_topic.this["alerts"].arn]
  ok_actions    = [aws_sns_topic.this["alerts"].arn]

  dynamic "metric_query" {
    for_each = try(each.value.Metrics, [])

    content {
      id          = metric_query.value.Id
      label       = try(metric_query.value.Label, null)
      expression  = try(metric_query.value.Expression, null)
      period      = try(metric_query.value.Period, null)
      return_data = try(metric_query.value.ReturnData, null)

      dynamic "metric" {
        for_each = try([metric_query.value.MetricStat], [])

        content {
          metric_name = metric.value.Metric.MetricName
          namespace   = try(metric.value.Metric.Namespace, local.metrics_namespace)
          period      = metric.value.Period
          stat        = metric.value.Stat
          unit        = try(metric.value.Unit, null)
          dimensions  = try({ for dimension in metric.value.Metric.Dimensions : dimension.Name => dimension.Value }, null)
        }
      }
    }
  }
}

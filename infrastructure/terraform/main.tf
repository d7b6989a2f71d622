# Each module owns one concern and only reads what those before it created.

locals {
  settings = yamldecode(file("${var.configs_dir}/environments/${var.environment}.yaml"))
  account  = merge({ prefix = "srl-rlvr", pipeline_prefix = "srl-rlvr" }, local.settings.sagemaker)

  # What a tier's training machines cost an hour, on demand.
  prices = yamldecode(file("${var.configs_dir}/prices.yaml")).instances
  tiers = {
    for tier in keys(var.tier_latency_ms) : tier => yamldecode(file("${var.configs_dir}/tiers/${tier}.yaml")).jobs
  }
  usd_per_hour = {
    for tier, jobs in local.tiers :
    tier => local.prices[jobs.training.instance_type].usd_per_hour * try(jobs.training.instance_count, 1)
  }

  context = {
    name            = "srl-rlvr-${var.environment}"
    account         = local.account.account_id
    region          = local.account.region
    partition       = data.aws_partition.current.partition
    pipeline_prefix = local.account.pipeline_prefix
  }
}

data "aws_partition" "current" {}

module "security" {
  source = "./modules/security"

  context              = local.context
  consumer_account_ids = var.consumer_account_ids
  secret_reader        = "${local.context.name}-trajectory-generation"
  zones                = var.zones
  retention_days       = var.retention_days
}

module "storage" {
  source = "./modules/storage"

  context              = local.context
  bucket               = { name = local.account.bucket, prefix = local.account.prefix }
  image_registry       = local.settings.image_registry
  kms_key_arn          = module.security.data_key_arn
  consumer_account_ids = var.consumer_account_ids
  checkpoint_days      = var.checkpoint_days
  served_trace_days    = var.served_trace_days
  retention_days       = var.retention_days
}

module "registry" {
  source = "./modules/sagemaker-registry"

  context              = local.context
  model_types          = local.settings.nights.model_types
  tier_latency_ms      = var.tier_latency_ms
  consumer_account_ids = var.consumer_account_ids
  bucket               = module.storage.bucket
  kms_key_arn          = module.security.data_key_arn
  tracking_server      = split("mlflow-tracking-server/", local.settings.tracking_uri)[1]
}

module "training" {
  source = "./modules/sagemaker-training"

  context             = local.context
  definitions_dir     = var.definitions_dir
  network             = module.security.network
  kms_key_arn         = module.security.data_key_arn
  teacher_secret_arn  = module.security.teacher_secret_arn
  bucket              = module.storage.bucket
  repository_arns     = module.storage.repository_arns
  tracking_server_arn = module.registry.tracking_server_arn
  usd_per_hour        = { for name, price in local.prices : name => price.usd_per_hour }
}

module "monitoring" {
  source = "./modules/monitoring"

  context            = local.context
  catalogue_dir      = var.catalogue_dir
  kms_key_arn        = module.security.operations_key_arn
  schedules_enabled  = local.settings.nights.scheduled
  alert_emails       = var.alert_emails
  monthly_budget_usd = local.settings.nights.monthly_budget_usd
  retention_days     = var.retention_days
}

module "orchestration" {
  source = "./modules/orchestration"

  context            = local.context
  state_machines_dir = var.state_machines_dir
  schedules          = var.schedules
  schedules_enabled  = local.settings.nights.scheduled
  kms_key_arn        = module.security.operations_key_arn
  data_key_arn       = module.security.data_key_arn
  bucket             = module.storage.bucket
  topic_arns         = module.monitoring.topic_arns
  metrics_namespace  = module.monitoring.metrics_namespace
  retention_days     = var.retention_days
  night = {
    model_types   = local.settings.nights.model_types
    promotion     = try(local.settings.stages.registration.promotion, "auto")
    serving_image = "${local.settings.image_registry}/serving:${local.settings.image_tag}"
    policies      = local.settings.policies
    usd_per_hour  = local.usd_per_hour
    # Without a budget nothing falls back to machines on demand.
    budgets_usd = { for tier, jobs in local.tiers : tier => try(jobs.budget_usd, 0) }
    at_most_usd = module.training.at_most_usd
  }
}

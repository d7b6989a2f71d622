# What each stage may touch of the bucket. A stage writes where its own steps do, so that none can alter what another put
# out; it reads what the stages before it wrote. A step's outputs lie in PREFIX/runs/PIPELINE/EXECUTION/STEP, its
# checkpoints in PREFIX/checkpoints/TIER/MODEL_TYPE/NIGHT/STEP.

locals {
  registered = ["policies/", "mlflow/"] # base models; champions

  stages = {
    trajectory_generation = { step = "trajectory-generation" }
    verification          = { step = "verification", after = ["trajectory_generation"] }
    data_validation       = { step = "data-validation", after = ["verification"], reads = ["traces/collected/"] }
    srl                   = { step = "srl", after = ["data_validation"], reads = local.registered, trains = true }
    rlvr                  = { step = "rlvr", after = ["data_validation", "srl"], trains = true }
    evaluation = {
      step   = "evaluation"
      after  = ["data_validation", "srl", "rlvr"]
      reads  = local.registered
      trains = true # on the tier whose policies no processing instance holds
    }
    distillation = {
      step   = "distill-*"
      after  = ["data_validation", "evaluation", "distillation"]
      reads  = local.registered
      trains = true
    }
    # MLflow's client uploads a version's files by itself.
    registration = { step = "register-*", after = ["evaluation", "distillation"], writes = ["mlflow/"] }
    # No stage of a DAG: the weekly job that proposes who serves what, from the registry, its evidence and measurements.
    selection = {
      step   = "selection"
      after  = ["evaluation", "distillation"]
      reads  = ["${var.bucket.prefix}/serving/"]
      writes = ["${var.bucket.prefix}/selection/"]
    }
    # Nor these, with which a night begins: production's traces, and how far what serves is from its evidence.
    trace_collection = {
      step   = "trace-collection"
      reads  = ["traces/served/"]
      writes = ["traces/collected/"]
    }
    serving_drift = {
      step   = "serving-drift"
      after  = ["evaluation", "distillation"]
      reads  = ["traces/served/"]
      writes = ["${var.bucket.prefix}/nights/drift/"]
    }
  }

  # A condition cannot read what a training job wrote: a step report-STEP, with the stage's role, passes it on.
  outputs = {
    for name, stage in local.stages : name =>
    [for step in [stage.step, "report-${stage.step}"] : "${var.bucket.prefix}/runs/*/${step}/"]
  }
  writes = {
    for name, stage in local.stages : name => concat(
      local.outputs[name],
      [for step in [stage.step] : "${var.bucket.prefix}/checkpoints/*/${step}/" if try(stage.trains, false)],
      try(stage.writes, []),
    )
  }
  reads = {
    for name, stage in local.stages : name => distinct(concat(
      local.writes[name],
      flatten([for before in try(stage.after, []) : local.outputs[before]]),
      try(stage.reads, []),
    ))
  }
}

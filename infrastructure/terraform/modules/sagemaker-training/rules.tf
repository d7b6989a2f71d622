# What no definition may ask for. A plan stops here, before anything runs on a machine that costs 98 USD an hour.

locals {
  # These instances encrypt their own NVMe disks, and SageMaker refuses a volume key for them.
  local_disks = "^ml\\.(c5d|g4dn|g5|g6|g6e|m5d|p3dn|p4d|p4de|p5|p5e|p5en|r5d|trn1|trn2)\\."

  role_names = [for role in aws_iam_role.step : "arn:${var.context.partition}:iam::${var.context.account}:role/${role.name}"]

  # What both kinds of job are judged by, whatever their requests call it.
  jobs = {
    for name, steps in local.steps : name => {
      for step in steps : step.Name => {
        arguments  = step.Arguments
        trains     = step.Type == "Training"
        spot       = try(step.Arguments.EnableManagedSpotTraining, false) == true
        network    = try(step.Arguments.VpcConfig, step.Arguments.NetworkConfig.VpcConfig, null)
        output_key = try(step.Arguments.OutputDataConfig.KmsKeyId, step.Arguments.ProcessingOutputConfig.KmsKeyId, null)
        machines   = try(step.Arguments.ResourceConfig, step.Arguments.ProcessingResources.ClusterConfig, {})
      } if contains(["Processing", "Training"], step.Type)
    }
  }

  rules = {
    for name, jobs in local.jobs : name => {
      for step, job in jobs : step => {
        "no network isolation"              = !job.trains || try(job.arguments.EnableNetworkIsolation, false) == true
        "no encryption between containers"  = !job.trains || try(job.arguments.EnableInterContainerTrafficEncryption, false) == true
        "not in this account's network"     = try(length(setsubtract(job.network.Subnets, var.network.subnets)) == 0, false)
        "not in this account's groups"      = try(length(setsubtract(job.network.SecurityGroupIds, var.network.security_groups)) == 0, false)
        "output without this account's key" = job.output_key == var.kms_key_arn
        "volume without this account's key" = try(job.machines.VolumeKmsKeyId, null) == (
          can(regex(local.local_disks, try(job.machines.InstanceType, ""))) ? null : var.kms_key_arn
        )
        "no limit on its time"      = can(job.arguments.StoppingCondition.MaxRuntimeInSeconds)
        "role of no stage"          = contains(local.role_names, try(job.arguments.RoleArn, ""))
        "Spot without a checkpoint" = !job.spot || can(job.arguments.CheckpointConfig.S3Uri)
        "Spot that never waits" = !job.spot || try(
          job.arguments.StoppingCondition.MaxWaitTimeInSeconds > job.arguments.StoppingCondition.MaxRuntimeInSeconds, false
        )
      }
    }
  }

  violations = {
    for name in keys(local.definitions) : name => concat(
      [for step in local.depth_4[name] : "${step.Name}: nested too deep for these rules to see all"],
      [
        for step in local.steps[name] : "${step.Name}: a ${step.Type} step, which has no rules"
        if !contains(["Condition", "Fail", "Processing", "Training"], step.Type)
      ],
      flatten([for step, rules in local.rules[name] : [for rule, kept in rules : "${step}: ${rule}" if !kept]]),
    )
  }
}

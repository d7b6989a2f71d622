# Definitions are deployed as compiled, byte for byte. What they say of this account (roles, key, network) was written into
# configs/environments from this configuration's outputs; rules.tf refuses a definition that says otherwise.

locals {
  texts = {
    for file in fileset(var.definitions_dir, "*.sagemaker.json") :
    replace(trimsuffix(file, ".sagemaker.json"), "_", "-") => file("${var.definitions_dir}/${file}")
  }
  definitions = { for name, text in local.texts : name => jsondecode(text) }

  # Beside each definition lies the request that it was compiled with: name, description, parallel steps, tags.
  requests = {
    for file in fileset(var.definitions_dir, "*.sagemaker.request.json") :
    replace(trimsuffix(file, ".sagemaker.request.json"), "_", "-") => jsondecode(file("${var.definitions_dir}/${file}"))
  }

  # A definition's steps with those in the branches of its conditions, level by level: HCL has no recursion.
  steps = {
    for name, definition in local.definitions : name =>
    concat(definition.Steps, local.depth_1[name], local.depth_2[name], local.depth_3[name], local.depth_4[name])
  }
  depth_1 = {
    for name, definition in local.definitions : name => flatten([
      for step in definition.Steps : [try(step.Arguments.IfSteps, []), try(step.Arguments.ElseSteps, [])]
    ])
  }
  depth_2 = {
    for name, steps in local.depth_1 : name => flatten([
      for step in steps : [try(step.Arguments.IfSteps, []), try(step.Arguments.ElseSteps, [])]
    ])
  }
  depth_3 = {
    for name, steps in local.depth_2 : name => flatten([
      for step in steps : [try(step.Arguments.IfSteps, []), try(step.Arguments.ElseSteps, [])]
    ])
  }
  depth_4 = {
    for name, steps in local.depth_3 : name => flatten([
      for step in steps : [try(step.Arguments.IfSteps, []), try(step.Arguments.ElseSteps, [])]
    ])
  }
}

resource "aws_sagemaker_pipeline" "this" {
  for_each = local.definitions

  pipeline_name         = local.requests[each.key].PipelineName
  pipeline_display_name = local.requests[each.key].PipelineDisplayName
  pipeline_description  = local.requests[each.key].PipelineDescription
  role_arn              = aws_iam_role.pipeline.arn
  pipeline_definition   = local.texts[each.key]
  tags                  = { for tag in local.requests[each.key].Tags : tag.Key => tag.Value }

  parallelism_configuration {
    max_parallel_execution_steps = local.requests[each.key].ParallelismConfiguration.MaxParallelExecutionSteps
  }

  lifecycle {
    precondition {
      condition     = length(local.violations[each.key]) == 0
      error_message = "Definition ${each.key} may not be deployed: ${join("; ", local.violations[each.key])}."
    }
  }

  depends_on = [aws_iam_role_policy.pipeline]
}

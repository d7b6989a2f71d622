<#
.SYNOPSIS
Deploy the training of one environment: compile, show Terraform's plan, apply it.
.EXAMPLE
./scripts/aws-deploy-training.ps1 -Environment dev
#>
param(
    [string] $Environment = 'dev',
    [switch] $PlanOnly,
    [switch] $WithoutPipelines,
    [switch] $Yes
)
$arguments = @('deploy', '--env', $Environment)
if ($PlanOnly) { $arguments += '--plan-only' }
if ($WithoutPipelines) { $arguments += '--without-pipelines' }
if ($Yes) { $arguments += '--yes' }
& srl-rlvr @arguments
exit $LASTEXITCODE

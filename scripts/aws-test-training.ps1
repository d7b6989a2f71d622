<#
.SYNOPSIS
Train one tier once in an environment's account, if its plan is accepted, and say why where it fails.
.EXAMPLE
./scripts/aws-test-training.ps1 -Environment dev -Tier gold
#>
param(
    [string] $Environment = 'dev',
    [string] $Tier = 'gold',
    [string] $RunId = "test-$Tier-$(Get-Date -Format yyyyMMdd-HHmmss)"
)
& srl-rlvr plan post_training --env $Environment --tier $Tier
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
& srl-rlvr run post_training --engine sagemaker --env $Environment --tier $Tier --run-id $RunId
$code = $LASTEXITCODE
if ($code -eq 1) { & srl-rlvr triage $RunId }
exit $code

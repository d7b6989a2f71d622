"""The pipeline PREFIX-selection that the weekly state machine starts: one processing step of the data image.

It runs `python -m components.shared.selection` over the account's registry, the measurements in
s3://BUCKET/PREFIX/serving/measured.jsonl and the table in effect, s3://BUCKET/PREFIX/selection/current.json, and leaves its
proposal beside that. It is no DAG: it makes no policy, and its one parameter names the week.
"""

import json
from typing import Any

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from components.shared.performance.sagemaker_registry import SCHEME
from pipelines.compilers.sagemaker import VERSION, SageMakerPipeline
from pipelines.compilers.sagemaker_checks import check_account, check_definition
from pipelines.configuration import load_settings, load_tier
from pipelines.job_settings import SageMaker

STEM = "selection"
MODULE = "components.shared.selection"
GIB = 30
"""Of the job's volume: it reads tables and reports, no policy."""


def selection_files(environment: str) -> dict[str, str]:
    """The definition and CreatePipeline's request, as `compiled_files` names them."""
    pipeline = compile_selection(environment)
    return {
        f"{STEM}.sagemaker.json": pipeline.definition_text(),
        f"{STEM}.sagemaker.request.json": json.dumps(pipeline.request(), indent=1) + "\n",
    }


def compile_selection(environment: str) -> SageMakerPipeline:
    """The pipeline for an environment. Raises UsageError for one without an account."""
    settings = load_settings(environment)
    account = check_account(settings)
    job = load_tier(Tier.GOLD).jobs.processing.model_copy(update={"job": Job.PROCESSING})
    tags = {"cost-centre": account.cost_centre, "dag": STEM, "project": "srl-rlvr", "tier": Tier.GOLD.value}
    listed = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    registry = settings.environment.registry_uri or f"{SCHEME}srl-rlvr-{environment}?region={account.region}"
    request: dict[str, Any] = {
        "AppSpecification": {
            "ImageUri": settings.environment.image("data"),
            "ContainerEntrypoint": ["python", "-m", MODULE],
            "ContainerArguments": [
                "--registry",
                registry,
                "--measured",
                f"{account.root}/serving/measured.jsonl",
                "--tables",
                tables(account),
            ],
        },
        "ProcessingInputs": [],
        "ProcessingOutputConfig": {
            "Outputs": [],
            **({"KmsKeyId": account.kms_key} if account.kms_key else {}),
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": job.instance_type,
                "VolumeSizeInGB": GIB,
                **({"VolumeKmsKeyId": account.kms_key} if account.kms_key else {}),
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "NetworkConfig": {
            "EnableNetworkIsolation": False,
            "EnableInterContainerTrafficEncryption": job.encrypted_traffic,
            **(
                {"VpcConfig": {"SecurityGroupIds": list(account.security_groups), "Subnets": list(account.subnets)}}
                if account.subnets
                else {}
            ),
        },
        # boto3 does not read the AWS_REGION that SageMaker sets.
        "Environment": {"AWS_DEFAULT_REGION": account.region},
        "RoleArn": account.roles.get(STEM, account.role_arn),
        "Tags": listed,
    }
    definition: dict[str, Any] = {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [{"Name": "night", "Type": "String", "DefaultValue": "adhoc"}],
        "Steps": [
            {
                "Name": STEM,
                "Type": "Processing",
                "DisplayName": "Selection",
                "Description": "Which policy each model type is served with on each tier, by what was measured.",
                "Arguments": request,
            }
        ],
    }
    name = f"{account.pipeline_prefix}-{STEM}"
    check_definition(name, definition)
    return SageMakerPipeline(
        name=name,
        description="Proposes the policy that each model type is served with on each tier.",
        role_arn=account.role_arn,
        definition=definition,
        tags=listed,
        max_parallel_steps=1,
    )


def tables(account: SageMaker) -> str:
    """Where an account's selection tables lie."""
    return f"{account.root}/selection"

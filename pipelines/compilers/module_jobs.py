"""Pipelines that are no DAG: they make no policy, and each of their steps runs one module of the data image.

The module reads and writes S3 by itself, with a role of its own; whoever starts an execution waits for its end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from pipelines.compilers.sagemaker import VERSION, SageMakerPipeline, display_name
from pipelines.compilers.sagemaker_checks import check_account, check_definition
from pipelines.compilers.sagemaker_steps import Json
from pipelines.configuration import Settings, load_tier
from pipelines.job_settings import JobSettings, SageMaker

GIB = 30
"""Of a job's volume: it holds tables, reports and a day's traces, no policy."""
SECONDS = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleJob:
    """One step."""

    name: str
    """Of the step and, with underscores, of the role of sagemaker.roles that it runs with."""
    module: str
    """What `python -m` runs."""
    description: str
    arguments: Sequence[str | Json]


def compile_jobs(
    settings: Settings, stem: str, description: str, jobs: Sequence[ModuleJob], **parameters: str | None
) -> SageMakerPipeline:
    """The pipeline PREFIX-STEM; `parameters` by name, each with its default, or none where it has to be given.

    Raises UsageError for an environment without an account, and for what SageMaker would refuse.
    """
    account = check_account(settings)
    tags = {"cost-centre": account.cost_centre, "dag": stem, "project": "srl-rlvr", "tier": Tier.GOLD.value}
    listed = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    definition: Json = {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [
            {"Name": name, "Type": "String"} | ({} if default is None else {"DefaultValue": default})
            for name, default in parameters.items()
        ],
        "Steps": [
            {
                "Name": job.name,
                "Type": "Processing",
                "DisplayName": display_name(job.name),
                "Description": job.description,
                "Arguments": request(job, settings, account, listed),
            }
            for job in jobs
        ],
    }
    name = f"{account.pipeline_prefix}-{stem}"
    check_definition(name, definition)
    return SageMakerPipeline(
        name=name,
        description=description,
        role_arn=account.role_arn,
        definition=definition,
        tags=listed,
        max_parallel_steps=len(jobs),
    )


def machine_of_jobs() -> JobSettings:
    """What each job runs on: the cheapest tier's machine for processing."""
    return load_tier(Tier.GOLD).jobs.processing.model_copy(update={"job": Job.PROCESSING})


def request(job: ModuleJob, settings: Settings, account: SageMaker, tags: Sequence[Mapping[str, str]]) -> Json:
    """CreateProcessingJob's request, less the job's name."""
    machine = machine_of_jobs()
    key = {"VolumeKmsKeyId": account.kms_key} if account.kms_key else {}
    network = {"SecurityGroupIds": list(account.security_groups), "Subnets": list(account.subnets)}
    return {
        "AppSpecification": {
            "ImageUri": settings.environment.image("data"),
            "ContainerEntrypoint": ["python", "-m", job.module],
            "ContainerArguments": list(job.arguments),
        },
        "ProcessingInputs": [],
        "ProcessingOutputConfig": {"Outputs": [], **({"KmsKeyId": account.kms_key} if account.kms_key else {})},
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": machine.instance_type,
                "VolumeSizeInGB": GIB,
                **key,
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": SECONDS},
        "NetworkConfig": {
            "EnableNetworkIsolation": False,
            "EnableInterContainerTrafficEncryption": machine.encrypted_traffic,
            **({"VpcConfig": network} if account.subnets else {}),
        },
        # boto3 does not read the AWS_REGION that SageMaker sets.
        "Environment": {"AWS_DEFAULT_REGION": account.region},
        "RoleArn": account.roles.get(job.name.replace("-", "_"), account.role_arn),
        "Tags": list(tags),
    }


def files_of(stem: str, pipeline: SageMakerPipeline) -> dict[str, str]:
    """The definition and CreatePipeline's request, as `compiled_files` names them."""
    return {
        f"{stem}.sagemaker.json": pipeline.definition_text(),
        f"{stem}.sagemaker.request.json": json.dumps(pipeline.request(), indent=1) + "\n",
    }

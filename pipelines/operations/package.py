"""The model package of an execution that no night follows: one that was started by hand, from here or from the console.

A job registers in the account's MLflow alone, and the nightly state machine makes the packages of what it started. Here the
same is done for any execution, by the same rules: one package a policy, whoever asks and however often, with its lineage,
evidence and profile; it waits for a person, unless the environment promotes by itself, and then only over the champion that
the policy was compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from components.shared.performance.model_registry import CHAMPION, COMPARED_WITH, DIGEST, Registry
from components.shared.performance.sagemaker_registry import SageMakerRegistry, Stored
from components.shared.storage.aws import aws_client, aws_errors
from components.shared.storage.places import get_text
from pipelines.configuration import Settings
from pipelines.engines.sagemaker import report_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """A version as model package."""

    arn: str
    standing: str
    """How it stands, or what to type to promote it."""

    @property
    def line(self) -> str:
        return f"{self.arn}: {self.standing}"


def package(execution: str, settings: Settings, registry: Registry) -> Packaged:
    """The package of what an execution registered, made where there is none.

    Raises UsageError for an execution that has not succeeded, or registered nothing, and for a registry without packages.
    """
    if not isinstance(registry, SageMakerRegistry):
        raise UsageError(f"environment {settings.name!r} keeps its versions in MLflow: it has no model packages")
    client = aws_client("sagemaker", settings.environment.sagemaker.region if settings.environment.sagemaker else None)
    with aws_errors(execution):
        job = client.describe_processing_job(ProcessingJobName=_registration(client, execution))
        asked = client.get_paginator("list_pipeline_parameters_for_execution").paginate(PipelineExecutionArn=execution)
        parameters = {item["Name"]: item["Value"] for page in asked for item in page["PipelineParameters"]}
    places = {item["InputName"]: item["S3Input"]["S3Uri"] for item in job["ProcessingInputs"]}
    report = Report.model_validate_json(get_text(f"{report_uri(job['ProcessingJobArn'], job)}/report.json"))
    said: Mapping[str, Any] = report.details
    night, name = parameters.get("night", "adhoc"), str(said["name"])
    stored = Stored(
        policy_digest=str(said[DIGEST]),
        source=f"{places['policy']}/",
        evidence=f"{places['evidence']}/report.json",
        image=settings.environment.image("serving"),
        description=f"by hand, {night}, registry version {said['version']}",
        execution=execution,
    )
    lineage = {key: str(value) for key, value in said["lineage"].items()}
    facts = {"night": night, "registry_version": str(said["version"]), **_profile(places["evidence"], parameters)}
    version = registry.adopt(name, stored, {**lineage, **facts})
    if CHAMPION in version.aliases:
        return Packaged(arn=version.run, standing="it serves")
    if said["alias"] == CHAMPION and not version.served and registry.promote(version, over=lineage[COMPARED_WITH]):
        return Packaged(arn=version.run, standing="it serves now")
    came = "another champion came since it was compared: " if said["outcome"] == Outcome.STALE else ""
    return Packaged(arn=version.run, standing=f"{came}srl-rlvr promote {version.run} --env {settings.name}")


def _registration(client: Any, execution: str) -> str:
    """Name of the job in which the execution registered its policy."""
    status = client.describe_pipeline_execution(PipelineExecutionArn=execution)["PipelineExecutionStatus"]
    if status != "Succeeded":
        raise UsageError(f"{execution} is {status}: a package is made of what has succeeded")
    pages = client.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=execution)
    for step in (step for page in pages for step in page["PipelineExecutionSteps"]):
        if step["StepName"].startswith("register-") and step["StepStatus"] == "Succeeded":
            return step["Metadata"]["ProcessingJob"]["Arn"].rpartition("/")[2]
    raise UsageError(f"{execution} registered nothing: its gate kept the champion, so there is no package to make")


def _profile(evidence: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Where the profile of the data lies that a post-training learnt from: the next night's is compared with it."""
    execution, evaluated, _ = evidence.partition("/evaluation/")
    given = parameters.get("dataset_uri", "").rstrip("/")
    return {"profile": f"{given or f'{execution}/data-validation/dataset'}/profile.json"} if evaluated else {}

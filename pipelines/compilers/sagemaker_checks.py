"""What SageMaker would refuse, refused at once, by name: quotas, lengths, patterns, and accounts that do not fit together.

Lengths and patterns are those of botocore's service model, which the tests compare; the number of steps is the service's
default quota.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.shared.contracts.errors import UsageError
from pipelines.compilers.sagemaker_steps import Json
from pipelines.configuration import Settings
from pipelines.job_settings import SageMaker

NAME = re.compile(r"[A-Za-z0-9\-_]{1,64}")
PIPELINE_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,255}")
IMAGE = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/[^:]+:[\w.-]+")
MAX_STEPS, MAX_PARAMETERS, MAX_DEFINITION = 50, 200, 1_048_576
MAX_HYPERPARAMETERS, MAX_HYPERPARAMETER = 100, 2_500
MAX_ARGUMENTS, MAX_ARGUMENT = 100, 256
MAX_ENVIRONMENT = {"Training": 512, "Processing": 256}
"""Characters of an environment variable's value."""
MAX_CHANNELS, MAX_MOUNTS = 20, 10


def check_account(settings: Settings) -> SageMaker:
    """The environment's account. Raises UsageError where it has none, or where its parts belong to different ones."""
    account, where = settings.environment.sagemaker, f"configs/environments/{settings.name}.yaml"
    if account is None:
        raise UsageError(f"environment {settings.name!r} names no AWS account: add `sagemaker` to {where}")
    for stage, arn in {"role_arn": account.role_arn, **account.roles}.items():
        if arn.split(":")[4] != account.account_id:
            raise UsageError(f"{where}: {stage}: {arn} is of another account than {account.account_id}: put its role")
    if bool(account.subnets) != bool(account.security_groups):
        raise UsageError(f"{where}: subnets and security_groups go together: give both, or neither")
    return account


def check_definition(name: str, definition: Mapping[str, Any]) -> None:
    """Raises UsageError for the first thing in a definition that SageMaker would refuse."""
    if not PIPELINE_NAME.fullmatch(name):
        raise UsageError(f"pipeline name {name!r}: at most 256 letters, digits and hyphens: shorten pipeline_prefix")
    listed = list(all_steps(definition["Steps"]))
    names = [step["Name"] for step in listed]
    for step in names:
        if not NAME.fullmatch(step):
            raise UsageError(
                f"step name {step!r} ({len(step)} characters): at most 64 letters, digits, - and _: shorten it"
            )
        if names.count(step) > 1:
            raise UsageError(f"step name {step!r} is taken twice: name the task or the gate otherwise")
    for parameter in definition["Parameters"]:
        if not NAME.fullmatch(parameter["Name"]):
            raise UsageError(f"parameter name {parameter['Name']!r}: at most 64 letters, digits, - and _: shorten it")
    at_most(MAX_STEPS, len(listed), f"pipeline {name}", "steps", "split it, or have the quota raised")
    at_most(MAX_PARAMETERS, len(definition["Parameters"]), f"pipeline {name}", "parameters", "compile some in")
    at_most(MAX_DEFINITION, len(json.dumps(definition)), f"pipeline {name}", "characters", "split it")
    for step in listed:
        if step["Type"] in MAX_ENVIRONMENT:
            check_job(step)


def check_job(step: Json) -> None:
    """Raises UsageError for a job request that is over a limit of its API."""
    name, request = step["Name"], step["Arguments"]
    if step["Type"] == "Training":
        check_image(name, request["AlgorithmSpecification"]["TrainingImage"], request["RoleArn"])
        settings = request["HyperParameters"]
        at_most(MAX_HYPERPARAMETERS, len(settings), name, "hyperparameters", "configure less of it")
        for key, value in settings.items():
            at_most(MAX_HYPERPARAMETER, length(value), f"{name}.{key}", "characters", "shorten the value")
        at_most(MAX_CHANNELS, len(request["InputDataConfig"]), name, "inputs", "join some")
    else:
        check_image(name, request["AppSpecification"]["ImageUri"], request["RoleArn"])
        arguments = request["AppSpecification"]["ContainerArguments"]
        at_most(MAX_ARGUMENTS, len(arguments), name, "arguments", "configure less of it")
        for value in arguments:
            where = f"{name}: argument {str(value)[:40]!r}"
            at_most(MAX_ARGUMENT, length(value), where, "characters", "shorten the value")
        at_most(MAX_MOUNTS, len(request["ProcessingInputs"]), name, "inputs", "join some")
        at_most(MAX_MOUNTS, len(request["ProcessingOutputConfig"]["Outputs"]), name, "outputs", "join some")
    for key, value in request.get("Environment", {}).items():
        limit = MAX_ENVIRONMENT[step["Type"]]
        at_most(limit, length(value), f"{name}: environment variable {key}", "characters", "shorten the value")


def check_image(step: str, image: str, role: str) -> None:
    """Raises UsageError where a stage has no image that SageMaker could pull."""
    found = IMAGE.fullmatch(image)
    if found is None:
        raise UsageError(
            f"{step}: image {image!r} is not one of Amazon ECR (ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG): "
            "set image_registry and image_tag of the environment"
        )
    if role.split(":")[4] != found["account"]:
        # Pulling across accounts is possible, but needs a policy on the registry: never by accident.
        raise UsageError(
            f"{step}: image {image!r} is of another account than role {role}: push it to the role's account"
        )


def at_most(limit: int, found: int, where: str, what: str, remedy: str) -> None:
    if found > limit:
        raise UsageError(f"{where}: {found} {what}, SageMaker takes {limit}: {remedy}")


def length(value: Any) -> int:
    """Characters of a text; of a joined one, those that are known before the execution."""
    if isinstance(value, dict):
        parts = value.get("Std:Join", {}).get("Values", ())
        return sum(len(part) for part in parts if isinstance(part, str))
    return len(value)


def all_steps(listed: list[Json]) -> Iterator[Json]:
    """Every step, those of branches included."""
    for step in listed:
        yield step
        if step["Type"] == "Condition":
            yield from all_steps(step["Arguments"]["IfSteps"])
            yield from all_steps(step["Arguments"]["ElseSteps"])

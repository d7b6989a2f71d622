"""Why did it fail, and what to type next: the step, its reason, the class of the failure, the end of its log.

A run of this machine by its id, an execution of a pipeline by its ARN, as the morning report names it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from components.shared.contracts.errors import UsageError
from components.shared.storage.aws import aws_client, aws_errors
from pipelines import launch
from pipelines.engines.run_folder import RunFolder, TaskStatus
from pipelines.engines.sagemaker import LOG_GROUPS

TAIL = 20
"""Lines of the log that are shown."""


class Failure(StrEnum):
    """What kind of fault ended a run: who has to do something about it."""

    QUOTA = "quota"
    SPOT = "spot"
    CAPACITY = "capacity"
    MEMORY = "memory"
    ACCESS = "access"
    SERVICE = "service"
    STOPPED = "stopped"
    DATA = "data"
    CODE = "code"


SIGNS: tuple[tuple[Failure, str], ...] = (
    (Failure.QUOTA, r"resource ?limit ?exceeded|account-level service limit|quota"),
    (Failure.SPOT, r"max ?wait ?time|spot|interrupt"),
    (Failure.CAPACITY, r"capacity"),
    (Failure.MEMORY, r"out of memory|outofmemory|memoryerror|cannot allocate memory|exit code:? 137|sigkill"),
    (Failure.ACCESS, r"access ?denied|not authorized|expired ?token|security token|forbidden|\b403\b"),
    (Failure.SERVICE, r"throttl|rate exceeded|internal ?(server ?)?(error|failure)|service ?unavailable|\b50[023]\b"),
    (Failure.STOPPED, r"\bstopped\b|sigterm|sigint"),
    (
        Failure.DATA,
        r"no object under|manifest|does not match its|quarantin|trajector|min_(train|test)|malformed|no such file|dataset",
    ),
)
"""In this order, the first that is found: a quota's message speaks of capacity too, and a Spot job's of interruption."""
MEANS = {
    Failure.QUOTA: "the account may not use so many of these machines",
    Failure.SPOT: "Spot had no machines within the tier's wait, or took them back",
    Failure.CAPACITY: "AWS had none of these machines",
    Failure.MEMORY: "the process needed more memory than the machine has",
    Failure.ACCESS: "a role or the credentials may not do it",
    Failure.SERVICE: "AWS failed or was busy: nothing is wrong here",
    Failure.STOPPED: "somebody, or a time limit, stopped it",
    Failure.DATA: "an input is missing, malformed or too small",
    Failure.CODE: "none of the known faults: the stage's own code or configuration",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Triage:
    """What is known of a failure."""

    what: str
    step: str
    reason: str
    failure: Failure
    log: tuple[str, ...]
    """The last lines; empty where there are none."""
    next_commands: tuple[str, ...]


def classify(reason: str, log: tuple[str, ...] = ()) -> Failure:
    """The class of a failure by its reason and, where that tells nothing, by the end of its log."""
    for text in (reason, "\n".join(log)):
        for failure, signs in SIGNS:
            if re.search(signs, text, re.IGNORECASE):
                return failure
    return Failure.CODE


def triage(what: str, runs: Path, environment: str) -> Triage:
    """Look at a run's id or an execution's ARN. Raises UsageError for an unknown one, and for one that did not fail."""
    return of_execution(what, environment) if what.startswith("arn:") else of_run(what, runs)


def of_run(run_id: str, runs: Path) -> Triage:
    folder = RunFolder.open(runs, run_id)
    elsewhere = launch.remote(folder) if folder.state.execution and folder.state.outcome is None else None
    if elsewhere is not None:
        elsewhere[0].refresh(elsewhere[1], folder)
    failed = [n for n, t in folder.state.tasks.items() if t.status in (TaskStatus.FAILED, TaskStatus.STOPPED)]
    if not failed:
        raise UsageError(f"run {run_id!r} has no failed stage: it is {folder.status}")
    step = failed[0]
    reason = folder.state.tasks[step].error or str(folder.state.tasks[step].status)
    log = tail(folder, step)
    failure = classify(reason, log)
    resume = f"srl-rlvr retry {run_id}"
    commands = {
        Failure.QUOTA: ("aws service-quotas list-service-quotas --service-code sagemaker", resume),
        Failure.MEMORY: (plan_command(folder), resume),
        Failure.ACCESS: ("aws sts get-caller-identity", resume),
        Failure.DATA: (f"srl-rlvr logs {run_id} {step}", f"srl-rlvr run {folder.state.dag} --explain-cache"),
        Failure.CODE: (f"srl-rlvr logs {run_id} {step}", resume),
    }.get(failure, (resume,))
    return Triage(what=run_id, step=step, reason=reason, failure=failure, log=log, next_commands=commands)


def plan_command(folder: RunFolder) -> str:
    state = folder.state
    tier = "" if state.dag == "nightly" else f" --tier {state.tier}"
    environment = state.environment if state.engine == "sagemaker" else "prod"
    return f"srl-rlvr plan {state.dag}{tier} --env {environment}"


def tail(folder: RunFolder, step: str) -> tuple[str, ...]:
    """The end of a stage's log, on this machine or from CloudWatch."""
    if folder.state.tasks[step].job and (elsewhere := launch.remote(folder)):
        return tuple(line.rstrip() for line in elsewhere[0].logs(folder, step))[-TAIL:]
    log = folder.log(step)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return tuple(text.splitlines()[-TAIL:])


def of_execution(arn: str, environment: str) -> Triage:
    """An execution of the night, which no folder on this machine knows."""
    parts = arn.split(":")
    if len(parts) != 6 or "/execution/" not in parts[5]:
        raise UsageError(f"{arn} is no execution of a pipeline: pass the ARN that the report names, or a run's id")
    region = parts[3]
    sagemaker = aws_client("sagemaker", region)
    with aws_errors(arn):
        status = sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
        pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=arn)
        steps = [step for page in pages for step in page["PipelineExecutionSteps"]]
    failed = [step for step in steps if step["StepStatus"] in ("Failed", "Stopped")]
    if not failed and status["PipelineExecutionStatus"] not in ("Failed", "Stopped"):
        raise UsageError(f"{arn} did not fail: it is {status['PipelineExecutionStatus']}")
    step = failed[0] if failed else {"StepName": "pipeline", "FailureReason": status.get("FailureReason", "Stopped")}
    reason = " ".join(step.get("FailureReason", step.get("StepStatus", "")).split())
    log = job_log(step, region)
    failure = classify(reason, log)
    retry = next_attempt(arn, str(status.get("PipelineExecutionDisplayName", "")), environment)
    commands: tuple[str, ...] = (retry,)
    if failure == Failure.QUOTA:
        commands = (f"aws service-quotas list-service-quotas --service-code sagemaker --region {region}", retry)
    elif failure in (Failure.MEMORY, Failure.SPOT, Failure.CAPACITY):
        commands = (f"{plan_of(arn)} --env {environment}", retry)
    elif failure in (Failure.DATA, Failure.CODE):
        commands = (f"srl-rlvr deploy --env {environment}", retry)
    return Triage(what=arn, step=step["StepName"], reason=reason, failure=failure, log=log, next_commands=commands)


def next_attempt(arn: str, name: str, environment: str) -> str:
    """What goes on with an execution: the night's next attempt, by which what succeeded comes from the cache."""
    night = re.match(r"(\d{4}-\d\d-\d\d)-([1-8])-", name)
    if night is None:
        token = f"by-hand-{arn.rpartition('/')[2]}".ljust(32, "0")
        return f"aws sagemaker retry-pipeline-execution --pipeline-execution-arn {arn} --client-request-token {token}"
    _, _, _, region, account, _ = arn.split(":")
    attempt = int(night[2]) + 1
    machine = f"arn:aws:states:{region}:{account}:stateMachine:srl-rlvr-{environment}-nightly"
    given = f'{{"scheduled": "{night[1]}T01:00:00Z", "attempt": {attempt}}}'
    return (
        f"aws stepfunctions start-execution --state-machine-arn {machine} "
        f"--name by-hand-{night[1]}-{attempt} --input '{given}'"
    )


def plan_of(arn: str) -> str:
    """The plan of the pipeline that an execution is of."""
    stem = arn.split(":")[5].split("/")[1].removesuffix("-on-demand")
    found = re.search(r"(post-training|distillation)-(bronze|silver|gold)$", stem)
    return f"srl-rlvr plan {found[1].replace('-', '_')} --tier {found[2]}" if found else "srl-rlvr plan nightly"


def job_log(step: dict[str, Any], region: str) -> tuple[str, ...]:
    """The end of the log of a step's job; nothing where the job never started."""
    metadata = step.get("Metadata", {})
    kind = next((kind for kind in LOG_GROUPS if kind in metadata), None)
    if kind is None:
        return ()
    logs, prefix = aws_client("logs", region), metadata[kind]["Arn"].rpartition("/")[2] + "/"
    with aws_errors(prefix):
        try:
            found = logs.describe_log_streams(logGroupName=LOG_GROUPS[kind], logStreamNamePrefix=prefix)
        except logs.exceptions.ResourceNotFoundException:
            return ()
        lines = []
        for stream in found["logStreams"]:
            events = logs.get_log_events(
                logGroupName=LOG_GROUPS[kind],
                logStreamName=stream["logStreamName"],
                limit=TAIL,
                startFromHead=False,
            )
            lines += [event["message"].rstrip() for event in events["events"]]
    return tuple(lines[-TAIL:])

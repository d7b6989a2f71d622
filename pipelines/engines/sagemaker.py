"""A DAG on SageMaker Pipelines: start an execution once, follow it, and bring back what its stages report.

The run's folder on this machine mirrors the execution, so that `status`, `logs`, `stop` and `run --resume` work as they do
for a run that happens here. Following may be interrupted at any time: the execution goes on.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Outcome, content_id
from components.shared.storage.aws import aws_client, aws_errors
from components.shared.storage.places import download
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.compilers.sagemaker import SageMakerPipeline, compile_sagemaker
from pipelines.compilers.sagemaker_checks import check_account
from pipelines.configuration import Settings
from pipelines.engines.outcomes import FINISHED, outcome_of
from pipelines.engines.run_folder import RunFolder, TaskState, TaskStatus
from pipelines.engines.sagemaker_local import mark
from pipelines.job_settings import SageMaker

POLL_SECONDS = 15.0
ENDED = ("Succeeded", "Failed", "Stopped")
PLACEHOLDER = "111122223333"
"""The account of AWS's documentation, which the committed environments hold."""
STATUSES = {
    "Starting": TaskStatus.RUNNING,
    "Executing": TaskStatus.RUNNING,
    "Stopping": TaskStatus.RUNNING,
    "Succeeded": TaskStatus.DONE,
    "Failed": TaskStatus.FAILED,
    "Stopped": TaskStatus.STOPPED,
}
LOG_GROUPS = {"TrainingJob": "/aws/sagemaker/TrainingJobs", "ProcessingJob": "/aws/sagemaker/ProcessingJobs"}


@dataclass(frozen=True, kw_only=True)
class SageMakerEngine:
    """Executions of one account. Every method raises PipelineError where AWS refuses, with its reason."""

    account: SageMaker
    on_report: Callable[[str, Path, float | None], None]
    """Called with task, report's folder and seconds when a stage is finished, cached or not."""
    poll_seconds: float = POLL_SECONDS

    def start(self, dag: CompiledDag, arguments: Mapping[str, Any], folder: RunFolder, attempt: int = 1) -> str:
        """Start the execution of a night and return its ARN; the same night and attempt is the same execution.

        Raises UsageError where the deployed pipeline is not the one that is compiled here.
        """
        pipeline = compile_sagemaker(dag)
        self._check_deployed(pipeline)
        with aws_errors(f"pipeline {pipeline.name}"):
            answer = self._client("sagemaker").start_pipeline_execution(
                PipelineName=pipeline.name,
                PipelineExecutionDisplayName=folder.state.run_id.replace("_", "-"),
                PipelineParameters=[{"Name": name, "Value": str(value)} for name, value in sorted(arguments.items())],
                ClientRequestToken=request_token(pipeline.name, arguments, folder.state.run_id, attempt),
            )
        folder.change(execution=answer["PipelineExecutionArn"])
        return answer["PipelineExecutionArn"]

    def run(self, dag: CompiledDag, arguments: Mapping[str, Any], folder: RunFolder) -> Outcome:
        """Start the run's execution, or take up the one that it has, and follow it to its end."""
        tasks = {name: TaskState(stage=task.spec.name) for name, task in dag.tasks.items()}
        folder.change(outcome=None, finished=None, tasks=tasks)
        (folder.path / "logs").mkdir(exist_ok=True)
        if folder.state.execution is None:
            self.start(dag, arguments, folder)
        elif self._status(folder) in ("Failed", "Stopped"):
            self.retry(folder)
        try:
            while (outcome := self.refresh(dag, folder)) is None:
                time.sleep(self.poll_seconds)
            return outcome
        except KeyboardInterrupt:
            run_id = folder.state.run_id
            said = f"the execution goes on: srl-rlvr status {run_id}, run --resume {run_id} to follow, stop {run_id}"
            print(said, file=sys.stderr)
            raise

    def refresh(self, dag: CompiledDag, folder: RunFolder) -> Outcome | None:
        """Bring the folder up to date; returns the outcome once the execution has ended."""
        # Asked for first: steps read afterwards cannot be behind it.
        status = self._status(folder)
        with aws_errors(str(folder.state.execution)):
            pages = self._client("sagemaker").get_paginator("list_pipeline_execution_steps")
            found = [
                step
                for page in pages.paginate(PipelineExecutionArn=folder.state.execution)
                for step in page["PipelineExecutionSteps"]
            ]
        for step in found:
            task = step["StepName"].replace("-", "_")
            if task in dag.tasks:
                self._take(folder, task, step)
            elif step["StepStatus"] == "Failed" and task.startswith("report_"):
                self._take(folder, task.removeprefix("report_"), step)
        return self._end(dag, folder, status) if status in ENDED else None

    def stop(self, folder: RunFolder) -> None:
        """Ask the execution to stop; its jobs get SIGTERM and save their state."""
        with aws_errors(str(folder.state.execution)):
            self._client("sagemaker").stop_pipeline_execution(
                PipelineExecutionArn=folder.state.execution,
                ClientRequestToken=content_id("stop", folder.state.execution) * 2,
            )

    def retry(self, folder: RunFolder) -> None:
        """Let a failed or stopped execution go on from where it failed."""
        with aws_errors(str(folder.state.execution)):
            described = self._client("sagemaker").describe_pipeline_execution(
                PipelineExecutionArn=folder.state.execution
            )
            # One retry of one failure, however often it is asked for: the time of the failure tells them apart.
            token = content_id("retry", folder.state.execution, str(described.get("LastModifiedTime"))) * 2
            self._client("sagemaker").retry_pipeline_execution(
                PipelineExecutionArn=folder.state.execution, ClientRequestToken=token
            )

    def logs(self, folder: RunFolder, task: str) -> Iterator[str]:
        """What a task's job printed, line by line, from CloudWatch."""
        job = folder.state.tasks[task].job
        if job is None:
            return
        group = LOG_GROUPS["TrainingJob" if ":training-job/" in job else "ProcessingJob"]
        client, prefix = self._client("logs"), job.rpartition("/")[2] + "/"
        with aws_errors(job):
            streams = client.get_paginator("describe_log_streams").paginate(
                logGroupName=group, logStreamNamePrefix=prefix
            )
            names = [stream["logStreamName"] for page in streams for stream in page["logStreams"]]
            # No stream yet: the job waits for its machine.
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=group, logStreamNames=names)
            for page in pages if names else ():
                yield from (event["message"] for event in page["events"])

    def _check_deployed(self, pipeline: SageMakerPipeline) -> None:
        from botocore.exceptions import ClientError

        remedy = "deploy what `srl-rlvr compile --target sagemaker` gives"
        with aws_errors(f"pipeline {pipeline.name}"):
            try:
                deployed = self._client("sagemaker").describe_pipeline(PipelineName=pipeline.name)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
                    raise
                raise UsageError(f"pipeline {pipeline.name} is not deployed: {remedy}") from error
        if json.loads(deployed["PipelineDefinition"]) != json.loads(pipeline.definition_text()):
            raise UsageError(f"pipeline {pipeline.name} as deployed is not the one that is compiled here: {remedy}")

    def _status(self, folder: RunFolder) -> str:
        with aws_errors(str(folder.state.execution)):
            described = self._client("sagemaker").describe_pipeline_execution(
                PipelineExecutionArn=folder.state.execution
            )
        return described["PipelineExecutionStatus"]

    def _take(self, folder: RunFolder, task: str, step: Mapping[str, Any]) -> None:
        """Write what AWS says of one step into the folder, and fetch its report once it is there."""
        status = STATUSES[step["StepStatus"]]
        if status == TaskStatus.DONE and "CacheHitResult" in step:
            status = TaskStatus.CACHED
        facts: dict[str, Any] = {"status": status, "started": step.get("StartTime")}
        if "StartTime" in step and "EndTime" in step:
            facts["seconds"] = round((step["EndTime"] - step["StartTime"]).total_seconds(), 3)
        if "FailureReason" in step:
            facts["error"] = " ".join(step["FailureReason"].split())
        job = next((entry["Arn"] for kind, entry in step.get("Metadata", {}).items() if kind in LOG_GROUPS), None)
        facts["job"] = job
        before = folder.state.tasks[task]
        if before.model_copy(update=facts) != before:
            folder.change_task(task, **facts)
        if status in FINISHED and job is not None and not folder.state.tasks[task].outputs:
            report = folder.artifact(task, "report")
            described = self._described(job)
            download(report_uri(job, described), report)
            outputs = {"report": str(report.relative_to(folder.runs))}
            folder.change_task(task, outputs=outputs, **machines(described))
            self.on_report(task, report, facts.get("seconds"))

    def _described(self, job: str) -> dict[str, Any]:
        name, client = job.rpartition("/")[2], self._client("sagemaker")
        with aws_errors(job):
            if ":training-job/" in job:
                return client.describe_training_job(TrainingJobName=name)
            return client.describe_processing_job(ProcessingJobName=name)

    def _end(self, dag: CompiledDag, folder: RunFolder, status: str) -> Outcome:
        if status == "Succeeded":
            mark(folder, (TaskStatus.PENDING,), TaskStatus.SKIPPED)
            outcome = outcome_of(dag, folder)
        else:
            outcome = Outcome.FAILED
        folder.change(outcome=outcome, finished=datetime.now(UTC))
        return outcome

    def _client(self, service: str) -> Any:
        return aws_client(service, self.account.region)


def real_account(settings: Settings) -> SageMaker:
    """The environment's account. Raises UsageError where it is the placeholder that the repository holds."""
    account = check_account(settings)
    if account.account_id == PLACEHOLDER:
        raise UsageError(
            f"account {PLACEHOLDER} is the placeholder of AWS's documentation: put yours into "
            f"configs/environments/{settings.name}.yaml"
        )
    return account


def request_token(pipeline: str, arguments: Mapping[str, Any], run_id: str, attempt: int) -> str:
    """What makes a second start of the same night and attempt the first one's: SageMaker answers with its execution.

    Without a night, each run is one of its own.
    """
    night = arguments.get("night", "adhoc")
    when = run_id if night == "adhoc" else night
    return content_id("start", pipeline, arguments.get("model_type"), when, attempt) * 2


def report_uri(job: str, described: Mapping[str, Any]) -> str:
    """Where a job left its report."""
    if ":training-job/" in job:
        return f"{described['OutputDataConfig']['S3OutputPath']}/{job.rpartition('/')[2]}/output/model/report"
    outputs = {item["OutputName"]: item for item in described["ProcessingOutputConfig"]["Outputs"]}
    return outputs["report"]["S3Output"]["S3Uri"]


def machines(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a job ran on and for how long; a training job says what is billed, a processing job is billed for all of it."""
    cluster = described.get("ResourceConfig") or described.get("ProcessingResources", {}).get("ClusterConfig") or {}
    found: dict[str, Any] = {"instance": cluster.get("InstanceType"), "instance_count": cluster.get("InstanceCount", 1)}
    kind = "Training" if "ResourceConfig" in described else "Processing"
    began, ended = (described.get(f"{kind}{what}Time") for what in ("Start", "End"))
    worked = described.get("TrainingTimeInSeconds") or ((ended - began).total_seconds() if began and ended else None)
    billed = described.get("BillableTimeInSeconds", worked)
    return {**found, "machine_seconds": worked, "billed_seconds": billed}

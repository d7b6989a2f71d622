"""Run a DAG's SageMaker definition on this machine: the SDK's own local executor, each job a subprocess, S3 by moto.

What is executed is the very JSON that would be deployed, so that its references, conditions and requests are proved before
anything costs money. A retried execution finds its finished jobs by the cache keys that SageMaker's cache has.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Outcome
from components.shared.storage.artifacts import read_manifest, write_text
from components.shared.storage.paths import PROJECT
from pipelines.compilers.kubeflow import CompiledDag
from pipelines.compilers.sagemaker import compile_sagemaker
from pipelines.configuration import Settings
from pipelines.engines.outcomes import FINISHED, outcome_of
from pipelines.engines.process import stopped_on_interrupt
from pipelines.engines.run_folder import RunFolder, TaskState, TaskStatus
from pipelines.engines.stage_store import link
from pipelines.job_settings import SageMaker

INTERPRETER = "SRL_RLVR_SAGEMAKER_PYTHON"
"""Environment variable: the Python that has the SageMaker SDK, where it is not this one or the one of `make sagemaker`."""
HOST = "pipelines.engines.sagemaker_sdk"
ACCOUNT = SageMaker(
    account_id="000000000000",
    region="us-east-1",
    role_arn="arn:aws:iam::000000000000:role/local",
    bucket="srl-rlvr-local",
)
"""Stands in where the environment has no account: nothing on this machine asks whose it is."""


@dataclass(frozen=True, kw_only=True)
class SageMakerLocalEngine:
    """What a run needs beside its DAG and its folder."""

    environment: Mapping[str, str]
    """Environment variables that every stage gets."""
    on_report: Callable[[str, Path, float | None], None]
    """Called with task, report's folder and seconds when a stage is finished, cached or not."""

    def run(self, dag: CompiledDag, arguments: Mapping[str, Any], folder: RunFolder) -> Outcome:
        """Execute the definition and return the outcome; a failed stage's error is in the folder's state.

        Raises UsageError where no interpreter with the SDK is found, PipelineError where the SDK itself fails.
        """
        interpreter = sdk_interpreter()
        work = folder.path / "sagemaker"
        for name in ("logs", "progress"):
            (folder.path / name).mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        for name in ("logs", "progress"):
            if not (work / name).exists():
                link(folder.path / name, work / name)
        write_text(work / "request.json", json.dumps(self._request(dag, arguments, work), indent=1))
        tasks = {name: TaskState(stage=task.spec.name) for name, task in dag.tasks.items()}
        folder.change(outcome=None, finished=None, tasks=tasks)
        try:
            self._follow(dag, folder, [str(interpreter), "-m", HOST, str(work / "request.json")])
        except BaseException:
            mark(folder, (TaskStatus.RUNNING,), TaskStatus.STOPPED)
            raise
        outcome = outcome_of(dag, folder)
        if outcome != Outcome.FAILED:
            mark(folder, (TaskStatus.PENDING,), TaskStatus.SKIPPED)
        folder.change(outcome=outcome, finished=datetime.now(UTC))
        return outcome

    def _request(self, dag: CompiledDag, arguments: Mapping[str, Any], work: Path) -> dict[str, Any]:
        pipeline = compile_sagemaker(dag)
        account = dag.settings.environment.sagemaker or ACCOUNT
        uploads = {}
        parameters = dict(arguments)
        for name in arguments:
            if name.endswith("_uri"):
                path = Path(str(arguments[name]))
                parameters[name] = f"{account.root}/inputs/{name}-{read_manifest(path).digest[:12]}"
                uploads[parameters[name]] = str(path)
        return {
            "name": pipeline.name,
            "definition": pipeline.definition,
            "parameters": parameters,
            "bucket": account.bucket,
            "uploads": uploads,
            "folder": str(work.resolve()),
            "python": sys.executable,
            "environment": dict(self.environment),
            "execution": uuid.uuid4().hex[:12],
        }

    def _follow(self, dag: CompiledDag, folder: RunFolder, command: list[str]) -> None:
        """Run the SDK's process and write what it tells into the folder's state."""
        paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        log = folder.path / "logs" / "sagemaker.log"
        with log.open("ab") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )
            with stopped_on_interrupt(process):
                ended = False
                for event in events(process):
                    ended = ended or "execution" in event
                    task = str(event.get("step", "")).replace("-", "_")
                    if task in dag.tasks:
                        self._change(folder, task, event)
                    elif event.get("error"):
                        raise PipelineError(f"{event['step']}: {event['error']}: see {log}")
                process.wait()
        if not ended:
            raise PipelineError(f"the SageMaker SDK's local executor ended with {process.returncode}: see {log}")

    def _change(self, folder: RunFolder, task: str, event: Mapping[str, Any]) -> None:
        status = TaskStatus(event["status"])
        facts = {key: event[key] for key in ("seconds", "cpu_seconds", "peak_mib", "error") if key in event}
        if status == TaskStatus.RUNNING:
            facts["started"] = datetime.now(UTC)
        if status in FINISHED:
            outputs = {name: Path(path) for name, path in event["outputs"].items()}
            for name, path in outputs.items():
                link(path, folder.artifact(task, name))
            facts["outputs"] = {name: os.path.relpath(path, folder.runs) for name, path in outputs.items()}
        folder.change_task(task, status=status, **facts)
        if status in FINISHED:
            self.on_report(task, folder.artifact(task, "report"), facts.get("seconds"))


def with_account(settings: Settings) -> Settings:
    """The settings with an account to compile for, where the environment has none of its own."""
    if settings.environment.sagemaker is not None:
        return settings
    registry = f"{ACCOUNT.account_id}.dkr.ecr.{ACCOUNT.region}.amazonaws.com/srl-rlvr"
    environment = settings.environment.model_copy(update={"sagemaker": ACCOUNT, "image_registry": registry})
    return dataclasses.replace(settings, environment=environment)


def sdk_interpreter() -> Path:
    """The Python that has the SageMaker SDK. Raises UsageError where there is none."""
    if os.environ.get(INTERPRETER):
        return Path(os.environ[INTERPRETER])
    if importlib.util.find_spec("sagemaker") is not None:
        return Path(sys.executable)
    own = PROJECT / ".venv-sagemaker" / "bin" / "python"
    if own.is_file():
        return own
    raise UsageError("engine sagemaker-local needs the SageMaker SDK: run `make sagemaker`, or set " + INTERPRETER)


def events(process: subprocess.Popen) -> Iterator[dict[str, Any]]:
    """The JSON lines that a process tells; whatever else it prints is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def mark(folder: RunFolder, standing: tuple[TaskStatus, ...], becomes: TaskStatus) -> None:
    for name, task in folder.state.tasks.items():
        if task.status in standing:
            folder.change_task(name, status=becomes)

"""What SageMaker does around a job's container, done around a process on this machine: bring the inputs from S3, lay out
/opt/ml, run the command, take the outputs to S3, describe the job.

The SDK's local executor calls these methods where it would call the API. A job whose step is cached is found again by what
SageMaker's own cache compares (the attributes in CACHE_KEYS), in the folder of this or an earlier execution.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.entrypoints.sagemaker import ROOT
from components.shared.contracts.records import content_id
from components.shared.performance.performance_tracker import PROGRESS_FILE
from pipelines.engines.process import Measured, cause, run_logged

Json = dict[str, Any]
Event = Callable[..., None]

CACHE_KEYS = {
    "Training": ("AlgorithmSpecification", "CheckpointConfig", "Environment", "HyperParameters", "InputDataConfig"),
    "Processing": ("AppSpecification", "Environment", "ProcessingInputs"),
}
"""What SageMaker's documentation lists as the default cache key of each type of step."""
JOB_FILE = "job.json"


class JobFailed(Exception):
    """A job ended with another exit code than 0; the text is what the container left as the reason."""


@dataclass(kw_only=True)
class LocalJobs:
    """The client that the SDK's local executor talks to. A job's name is its step's."""

    s3: Any
    """A boto3 client."""
    folder: Path
    """Where every job has its folder, whose `opt/ml` is the container's."""
    python: str
    """The interpreter that stands for the container's `python`."""
    environment: Mapping[str, str]
    """Environment variables of every job beside its own."""
    cached: frozenset[str]
    """Steps that may be found in the cache."""
    log: Callable[[str], Path]
    progress: Callable[[str], Path]
    on_event: Event
    execution: str = ""
    _described: dict[str, Json] = field(default_factory=dict)

    def create_training_job(self, name: str, **request: Any) -> None:
        """Run a training job. Raises JobFailed."""
        self._create("Training", name, request, self._train)

    def create_processing_job(self, name: str, **request: Any) -> None:
        """Run a processing job. Raises JobFailed."""
        self._create("Processing", name, request, self._process)

    def describe_training_job(self, name: str) -> Json:
        return json.loads(json.dumps(self._described[name]))

    describe_processing_job = describe_training_job

    def _create(self, kind: str, name: str, request: Json, run: Callable[[str, Path, Json], Measured]) -> None:
        key = content_id(name, {part: request.get(part) for part in CACHE_KEYS[kind]})
        folder = self.folder / name / key
        found = folder / JOB_FILE
        if name in self.cached and found.is_file():
            job = json.loads(found.read_text(encoding="utf-8"))
            self._publish(folder, job)
            status, measured = "cached", job["Measured"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "opt" / "ml" / "output").mkdir(parents=True)
            self.on_event(step=name, status="running")
            job_name = f"{name}-{self.execution}"
            job = {f"{kind}JobName": job_name, f"{kind}JobStatus": "Completed", "Kind": kind, **request}
            measured = run(job_name, folder / "opt" / "ml", request)
            self._publish(folder, job)
            job["Measured"], status = measured, "done"
            found.write_text(json.dumps(job), encoding="utf-8")
        self._described[name] = job
        outputs = {key: str(path) for key, path in outputs_of(folder, job).items()}
        self.on_event(step=name, status=status, outputs=outputs, **measured)

    def _train(self, job_name: str, ml: Path, request: Json) -> Measured:
        config = ml / "input" / "config"
        config.mkdir(parents=True)
        (ml / "model").mkdir()
        (config / "hyperparameters.json").write_text(json.dumps(request.get("HyperParameters", {})), encoding="utf-8")
        hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
        (config / "resourceconfig.json").write_text(json.dumps(hosts), encoding="utf-8")
        for channel in request.get("InputDataConfig", ()):
            source = channel["DataSource"]["S3DataSource"]["S3Uri"]
            self._download(source, ml / "input" / "data" / channel["ChannelName"])
        checkpoints = request.get("CheckpointConfig", {}).get("S3Uri")
        if checkpoints:
            self._download(checkpoints, ml / "checkpoints", may_be_empty=True)
        algorithm = request["AlgorithmSpecification"]
        try:
            return self._run(job_name, ml, request, algorithm, "failure")
        finally:
            if checkpoints:
                self._upload(ml / "checkpoints", checkpoints)

    def _process(self, job_name: str, ml: Path, request: Json) -> Measured:
        for item in request.get("ProcessingInputs", ()):
            self._download(item["S3Input"]["S3Uri"], inside(ml, item["S3Input"]["LocalPath"]))
        for item in request["ProcessingOutputConfig"]["Outputs"]:
            inside(ml, item["S3Output"]["LocalPath"]).mkdir(parents=True)
        return self._run(job_name, ml, request, request["AppSpecification"], "message")

    def _run(self, job_name: str, ml: Path, request: Json, container: Json, reason: str) -> Measured:
        step = job_name.removesuffix(f"-{self.execution}")
        command = [*container["ContainerEntrypoint"], *container.get("ContainerArguments", ())]
        command = [self.python if part == "python" else str(part) for part in command]
        own = {key: str(value) for key, value in request.get("Environment", {}).items()}
        told = {ROOT: str(ml), PROGRESS_FILE: str(self.progress(step)), "PYTHONHASHSEED": "0"}
        log = self.log(step)
        code, measured = run_logged(command, log, {**os.environ, **own, **self.environment, **told})
        if code != 0:
            left = ml / "output" / reason
            raise JobFailed(left.read_text(encoding="utf-8") if left.is_file() else cause(code, log))
        return measured

    def _publish(self, folder: Path, job: Json) -> None:
        """Take a job's outputs to where its request says."""
        for name, path in outputs_of(folder, job).items():
            self._upload(path, self._target(job, name))

    def _target(self, job: Json, name: str) -> str:
        if job["Kind"] == "Training":
            return f"{job['OutputDataConfig']['S3OutputPath']}/{job['TrainingJobName']}/output/model/{name}"
        outputs = {item["OutputName"]: item for item in job["ProcessingOutputConfig"]["Outputs"]}
        return outputs[name]["S3Output"]["S3Uri"]

    def _download(self, uri: str, folder: Path, may_be_empty: bool = False) -> None:
        """Bring every object whose key begins with the prefix, as S3DataType S3Prefix does."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        folder.mkdir(parents=True, exist_ok=True)
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        if not keys and not may_be_empty:
            raise JobFailed(f"no object under {uri}: check the parameter or the step that should have written it")
        for key in keys:
            path = folder / key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(bucket, key, str(path))

    def _upload(self, folder: Path, uri: str) -> None:
        upload(self.s3, folder, uri)


def upload(s3: Any, folder: Path, uri: str) -> None:
    """Put every file of a folder under a prefix."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        s3.upload_file(str(path), bucket, f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}")


def outputs_of(folder: Path, job: Json) -> dict[str, Path]:
    """The output folders that a job left, by name."""
    ml = folder / "opt" / "ml"
    if job["Kind"] == "Training":
        return {path.name: path for path in sorted((ml / "model").iterdir()) if not path.name.startswith(".")}
    listed = job["ProcessingOutputConfig"]["Outputs"]
    return {item["OutputName"]: inside(ml, item["S3Output"]["LocalPath"]) for item in listed}


def inside(ml: Path, path: str) -> Path:
    """A path of the container, under the folder that stands for its /opt/ml."""
    return ml / Path(path).relative_to("/opt/ml")

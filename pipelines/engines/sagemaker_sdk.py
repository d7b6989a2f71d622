"""An emitted definition, run by the SageMaker SDK's own local executor. A program, for an interpreter that has the SDK:

    python -m pipelines.engines.sagemaker_sdk REQUEST.json

The request holds the definition and the execution's parameters; every change of a step is a JSON line on standard output.
S3 is moto's unless the request names another endpoint. Importing the SDK takes seconds, and it needs older libraries than
the rest of the project does, which is why it lives in a process of its own.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REGION = "us-east-1"
os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

import boto3  # noqa: E402
from sagemaker.core.workflow import conditions as comparisons  # noqa: E402
from sagemaker.core.workflow import parameters as kinds  # noqa: E402
from sagemaker.core.workflow.execution_variables import ExecutionVariable  # noqa: E402
from sagemaker.core.workflow.functions import Join, JsonGet  # noqa: E402
from sagemaker.core.workflow.properties import Properties  # noqa: E402
from sagemaker.mlops.local.local_pipeline_session import LocalPipelineSession  # noqa: E402
from sagemaker.mlops.workflow.condition_step import ConditionStep  # noqa: E402
from sagemaker.mlops.workflow.pipeline import Pipeline  # noqa: E402
from sagemaker.mlops.workflow.steps import Step, StepTypeEnum  # noqa: E402

from pipelines.engines.sagemaker_jobs import LocalJobs, upload  # noqa: E402

Json = dict[str, Any]
QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
DESCRIBED = {"Training": "DescribeTrainingJobResponse", "Processing": "DescribeProcessingJobResponse"}
JOB_NAMES = {"Training": "TrainingJobName", "Processing": "ProcessingJobName"}
BESIDE = ("CacheConfig", "PropertyFiles", "RetryPolicies")
"""What a step has beside its request, in the very form in which the SDK would write it."""
PARAMETERS = {
    "String": kinds.ParameterString,
    "Integer": kinds.ParameterInteger,
    "Float": kinds.ParameterFloat,
    "Boolean": kinds.ParameterBoolean,
}
CONDITIONS = {
    "Equals": comparisons.ConditionEquals,
    "GreaterThan": comparisons.ConditionGreaterThan,
    "GreaterThanOrEqualTo": comparisons.ConditionGreaterThanOrEqualTo,
    "LessThan": comparisons.ConditionLessThan,
    "LessThanOrEqualTo": comparisons.ConditionLessThanOrEqualTo,
}


class EmittedStep(Step):
    """A Training or Processing step whose request is given, not built; its job is called by the step's name."""

    def __init__(self, step: Json, request: Json):
        super().__init__(
            name=step["Name"],
            display_name=step.get("DisplayName"),
            description=step.get("Description"),
            step_type=StepTypeEnum(step["Type"]),
            depends_on=step.get("DependsOn"),
        )
        self._beside = {key: step[key] for key in BESIDE if key in step}
        self._request = {**request, JOB_NAMES[step["Type"]]: step["Name"]}
        self._properties = Properties(step_name=step["Name"], step=self, shape_name=DESCRIBED[step["Type"]])

    @property
    def arguments(self) -> Json:
        return self._request

    @property
    def properties(self) -> Properties:
        return self._properties

    def to_request(self) -> Json:
        return {**super().to_request(), **self._beside}


class Loader:
    """Makes the SDK's objects from a definition's JSON."""

    def __init__(self, definition: Mapping[str, Any]):
        self.parameters = {
            item["Name"]: PARAMETERS[item["Type"]](item["Name"], item.get("DefaultValue"))
            for item in definition["Parameters"]
        }
        self._steps: dict[str, EmittedStep] = {}
        self.steps = [self.step(item) for item in definition["Steps"]]

    def step(self, item: Json) -> Step:
        request = item["Arguments"]
        if item["Type"] != "Condition":
            self._steps[item["Name"]] = EmittedStep(item, self.value(request))
            return self._steps[item["Name"]]
        return ConditionStep(
            name=item["Name"],
            display_name=item.get("DisplayName"),
            description=item.get("Description"),
            depends_on=item.get("DependsOn"),
            conditions=[
                CONDITIONS[found["Type"]](left=self.value(found["LeftValue"]), right=self.value(found["RightValue"]))
                for found in request["Conditions"]
            ],
            if_steps=[self.step(found) for found in request["IfSteps"]],
            else_steps=[self.step(found) for found in request["ElseSteps"]],
        )

    def value(self, value: Any) -> Any:
        """A value with every function and reference as the SDK's object."""
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "Get" in value:
            return self._reference(value["Get"])
        if "Std:Join" in value:
            return Join(on=value["Std:Join"]["On"], values=self.value(value["Std:Join"]["Values"]))
        if "Std:JsonGet" in value:
            _, step, _, file = value["Std:JsonGet"]["PropertyFile"]["Get"].split(".")
            return JsonGet(step_name=step, property_file=file, json_path=value["Std:JsonGet"]["Path"])
        return {key: self.value(item) for key, item in value.items()}

    def _reference(self, path: str) -> Any:
        root, name, *members = path.split(".")
        if root == "Parameters":
            return self.parameters[name]
        if root == "Execution":
            return ExecutionVariable(name)
        found: Any = self._steps[name].properties
        for member in members:
            attribute, key = re.fullmatch(r"(\w+)(?:\['(\w+)'\])?", member).groups()  # type: ignore[union-attr]
            found = getattr(found, attribute)
            found = found if key is None else found[key]
        return found


def execute(request: Mapping[str, Any], s3: Any, session: LocalPipelineSession) -> Json:
    """Run one execution to its end; returns DescribePipelineExecution's answer."""
    definition, folder = request["definition"], Path(request["folder"])
    loaded = Loader(definition)
    jobs = LocalJobs(
        s3=s3,
        folder=folder / "jobs",
        python=request["python"],
        environment=request["environment"],
        cached=frozenset(cached_steps(definition["Steps"])),
        log=lambda step: folder / "logs" / f"{step.replace('-', '_')}.log",
        progress=lambda step: folder / "progress" / f"{step.replace('-', '_')}.json",
        on_event=tell,
        execution=request["execution"],
    )
    session.sagemaker_client = jobs
    pipeline = Pipeline(
        name=request["name"],
        parameters=list(loaded.parameters.values()),
        steps=loaded.steps,
        sagemaker_session=session,
    )
    session.create_pipeline(pipeline, request["name"])
    execution = session.start_pipeline_execution(request["name"], PipelineParameters=request["parameters"])
    for step in execution.step_execution.values():
        if step.failure_reason:
            tell(step=step.name, status="failed", error=step.failure_reason.removeprefix("JobFailed: "))
    return execution.describe()


def cached_steps(steps: list[Json]) -> Iterator[str]:
    for step in steps:
        if step.get("CacheConfig", {}).get("Enabled"):
            yield step["Name"]
        for branch in ("IfSteps", "ElseSteps") if step["Type"] == "Condition" else ():
            yield from cached_steps(step["Arguments"][branch])


def tell(**event: Any) -> None:
    """One event, for the engine that reads this process's standard output."""
    print(json.dumps(event), flush=True)


@contextlib.contextmanager
def storage(endpoint: str | None) -> Iterator[str]:
    """The endpoint of an S3: the one given, or moto's for as long as the block runs."""
    if endpoint is not None:
        yield endpoint
        return
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def main(argv: list[str]) -> int:
    logging.getLogger("sagemaker").setLevel(logging.WARNING)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    with storage(request.get("endpoint")) as endpoint:
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
        s3.create_bucket(Bucket=request["bucket"])
        for uri, folder in request["uploads"].items():
            upload(s3, Path(folder), uri)
        boto_session = boto3.Session(region_name=REGION)
        session = LocalPipelineSession(
            boto_session=boto_session,
            s3_endpoint_url=endpoint,
            default_bucket=request["bucket"],
            sagemaker_config=QUIET,
        )
        session.context = None
        described = execute(request, s3, session)
    tell(execution=described["PipelineExecutionStatus"], reason=described.get("FailureReason"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

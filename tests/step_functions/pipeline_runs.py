"""Executions of SageMaker pipelines by their emitted definitions, with a course that a test sets.

moto calls every execution Succeeded at once, whatever its definition, and knows neither its steps nor stop nor retry. Here a
definition's parameters are checked, its steps' references resolved, and an execution goes through the statuses of its
course; where it succeeds, its stages' reports and manifests lie on S3 where the definition says.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.monitoring.stability import BLOCK
from components.shared.storage.artifacts import Manifest

Json = dict[str, Any]
DEFINITIONS = Path(__file__).resolve().parents[1] / "pipelines" / "golden" / "sagemaker"
"""Definitions as the compiler emits them, which its own tests hold up to date."""
COLLECTION = "collection"
ACCOUNT = "arn:aws:sagemaker:us-east-1:111122223333"


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What one attempt of an execution does."""

    polls: int = 1
    """Times that it is found executing before it ends."""
    end: str = "Succeeded"
    """Its last status; `Executing` for one that hangs."""
    accepted: bool = True
    """Whether the gate lets the candidate through."""
    fails_at: str = "srl"
    """Step that fails where it ends Failed."""
    reason: str = ""
    """Why it does."""
    outcome: Outcome = Outcome.REGISTERED
    """What the registration reports."""
    report: bool = True
    """Whether the registration leaves its report."""
    traces: bool = True
    """Whether the verified, or the collected, trajectories are whole."""
    served: bool = True
    """Whether production answered enough to be distilled."""
    drift: float = 0.02
    """Index of what Gold is asked and of its scores."""
    heeds_stop: bool = True
    meanwhile: Callable[[], object] | None = None
    """What else happens in the account before it ends."""


@dataclass(kw_only=True)
class Execution:
    arn: str
    pipeline: str
    parameters: Mapping[str, str]
    attempts: list[Course]
    polls: int = 0
    stopped: bool = False
    published: bool = False

    @property
    def course(self) -> Course:
        return self.attempts[-1]

    @property
    def status(self) -> str:
        if self.stopped and self.course.heeds_stop:
            return "Stopped"
        return "Executing" if self.polls <= self.course.polls else self.course.end


@dataclass(kw_only=True)
class PipelineRuns:
    """The executions of an account."""

    put: Callable[[str, str], None]
    """Writes a text to an S3 URI."""
    courses: dict[tuple[str, str], list[Course]] = field(default_factory=dict)
    """What the coming attempts do, by definition (post_training-gold) and model type; one that is not named succeeds."""
    executions: list[Execution] = field(default_factory=list)
    definitions: dict[str, Json] = field(default_factory=dict)
    """Definitions beside the emitted ones."""
    missing: set[str] = field(default_factory=set)
    """Definitions that are not deployed."""

    def start(self, request: Json) -> Json:
        stem = self._stem(request["PipelineName"])
        definition = self._definition(stem)
        given = {item["Name"]: item["Value"] for item in request["PipelineParameters"]}
        known = {item["Name"]: item for item in definition["Parameters"]}
        wrong = (given.keys() - known.keys()) | {
            n for n, p in known.items() if n not in given and "DefaultValue" not in p
        }
        if wrong:
            raise error("StartPipelineExecution", "ValidationException", f"parameters {sorted(wrong)}")
        wrong = {n for n, value in given.items() if known[n]["Type"] == "Integer" and not value.isdigit()}
        if wrong:
            raise error("StartPipelineExecution", "ValidationException", f"no integers: {sorted(wrong)}")
        defaults = {name: str(item["DefaultValue"]) for name, item in known.items() if "DefaultValue" in item}
        arn = f"{ACCOUNT}:pipeline/{request['PipelineName']}/execution/{len(self.executions) + 1:012d}"
        execution = Execution(
            arn=arn,
            pipeline=stem,
            parameters=defaults | given,
            attempts=[self._next(stem, given.get("model_type", ""))],
        )
        self.executions.append(execution)
        return {"PipelineExecutionArn": arn}

    def describe(self, request: Json) -> Json:
        execution = self._find(request)
        execution.polls += 1
        if execution.polls == 1 and execution.course.meanwhile is not None:
            execution.course.meanwhile()
        answer = {"PipelineExecutionArn": execution.arn, "PipelineExecutionStatus": execution.status}
        if execution.status == "Failed":
            answer["FailureReason"] = "Step failure: One or multiple steps failed."
        if execution.pipeline == COLLECTION and execution.polls > execution.course.polls:
            self._publish_collection(execution)
        elif execution.status == "Succeeded":
            self._publish(execution)
        return answer

    def stop(self, request: Json) -> Json:
        execution = self._find(request)
        execution.stopped = True
        return {"PipelineExecutionArn": execution.arn}

    def retry(self, request: Json) -> Json:
        execution = self._find(request)
        if execution.status not in ("Failed", "Stopped"):
            raise error("RetryPipelineExecution", "ValidationException", f"execution is {execution.status}")
        execution.attempts.append(self._next(execution.pipeline, execution.parameters["model_type"]))
        execution.polls = 0
        return {"PipelineExecutionArn": execution.arn}

    def list_steps(self, request: Json) -> Json:
        execution = self._find(request)
        steps = []
        for name, kind, _ in self._jobs(execution):
            arn = f"{ACCOUNT}:{kind.lower()}-job/{self._job_name(execution, name)}"
            step: Json = {"StepName": name, "StepStatus": "Succeeded", "Metadata": {f"{kind}Job": {"Arn": arn}}}
            if execution.status != "Succeeded" and name == execution.course.fails_at:
                step |= {"StepStatus": execution.status, "FailureReason": execution.course.reason}
            steps.append(step)
            # The collection's steps do not wait for each other.
            if step["StepStatus"] == "Failed" and execution.pipeline != COLLECTION:
                break
        failed = [step["StepName"] for step in steps if step["StepStatus"] == "Failed"]
        assert execution.status != "Failed" or failed, f"no step {execution.course.fails_at}"
        return {"PipelineExecutionSteps": steps}

    def describe_processing_job(self, request: Json) -> Json:
        name = request["ProcessingJobName"]
        for execution in self.executions:
            for step, kind, arguments in self._jobs(execution):
                if kind == "Processing" and self._job_name(execution, step) == name:
                    return {"ProcessingJobName": name, "ProcessingJobStatus": "Completed", **arguments}
        raise error("DescribeProcessingJob", "ResourceNotFound", name)

    def trainings(self, execution: Execution) -> dict[str, tuple[str, Json]]:
        """(job's name, request) of the training jobs that an execution reaches, by step."""
        jobs = self._jobs(execution)
        return {step: (self._job_name(execution, step), request) for step, kind, request in jobs if kind == "Training"}

    def _publish(self, execution: Execution) -> None:
        """What the stages of a succeeded execution left on S3, as far as the machines read it."""
        if execution.published:
            return
        execution.published = True
        for step, _, arguments in self._jobs(execution):
            outputs = {
                item["OutputName"]: item["S3Output"]["S3Uri"]
                for item in arguments.get("ProcessingOutputConfig", {}).get("Outputs", ())
            }
            if step == "verification" and execution.course.traces:
                manifest = Manifest(kind=ArtifactKind.TRAJECTORIES, files={})
                self.put(f"{outputs['verified']}/manifest.json", manifest.model_dump_json())
            if step.startswith("register-") and execution.course.report:
                self.put(f"{outputs['report']}/report.json", self._registration(execution).model_dump_json())
                (evidence,) = (
                    item["S3Input"]["S3Uri"]
                    for item in arguments["ProcessingInputs"]
                    if item["InputName"] == "evidence"
                )
                self.put(f"{evidence}/report.json", self._evidence(execution).model_dump_json())

    def _publish_collection(self, execution: Execution) -> None:
        """What the two jobs of a collection leave, where their arguments say, unless they failed or hang."""
        course, subject = execution.course, (execution.parameters["model_type"], execution.parameters["night"])
        for step, _, request in self._jobs(execution):
            if execution.status != "Succeeded" and step == course.fails_at:
                continue
            arguments = request["AppSpecification"]["ContainerArguments"]
            out = arguments[arguments.index("--out") + 1]
            if step == "trace-collection":
                self._publish_traces(course, out, *subject)
            else:
                evidence = dict(item.split("=") for item in arguments[arguments.index("--evidence") + 1 :])
                tiers = [verdict(tier, place, course.drift) for tier, place in evidence.items()]
                self.put(f"{out}/{subject[0]}/{subject[1]}.json", json.dumps({"night": subject[1], "tiers": tiers}))

    def _publish_traces(self, course: Course, out: str, model_type: str, night: str) -> None:
        place = f"{out}/{model_type}/night={night}"
        said: Json = {"night": night, "detail": "no traces under s3://srl-rlvr-prod/traces/served"}
        if course.served:
            said = {"uri": f"{place}/", "detail": "412 of 530 traces kept", "stage": "trace_collection", "night": night}
        self.put(f"{place}.json", json.dumps(said))
        if course.served and course.traces:
            manifest = Manifest(kind=ArtifactKind.TRAJECTORIES, files={})
            self.put(f"{place}/manifest.json", manifest.model_dump_json())

    def _evidence(self, execution: Execution) -> Report:
        stage, role = (
            ("distillation", "student") if "distillation" in execution.pipeline else ("evaluation", "candidate")
        )
        scores = {f"{role}_greedy": 0.8, f"{role}_greedy_low": 0.75, "scenarios": 300.0}
        return Report(stage=stage, summary="accepted", metrics=scores)

    def _registration(self, execution: Execution) -> Report:
        tier = execution.pipeline.removesuffix("-on-demand").partition("-")[2]
        details = {
            "name": f"{execution.parameters['model_type']}-{tier}",
            "version": 1 + self.executions.index(execution),
            "alias": "challenger",
            "policy_digest": execution.arn.rpartition("/")[2].rjust(64, "d"),
            "outcome": execution.course.outcome,
        }
        return Report(stage="registration", summary="registered", details=details)

    def _jobs(self, execution: Execution) -> Iterator[tuple[str, str, Json]]:
        """(step, kind, request) of the jobs that an execution reaches, references resolved."""
        requests: dict[str, Json] = {}
        found = list(leaves(self._definition(execution.pipeline)["Steps"], execution.course.accepted))
        for step in found:
            requests[step["Name"]] = step["Arguments"]
        for step in found:
            yield step["Name"], step["Type"], self._resolved(step["Arguments"], execution, requests)

    def _resolved(self, value: Any, execution: Execution, requests: Mapping[str, Json]) -> Any:
        if isinstance(value, list):
            return [self._resolved(item, execution, requests) for item in value]
        if not isinstance(value, dict):
            return value
        if "Std:Join" in value:
            join = value["Std:Join"]
            return join["On"].join(str(self._resolved(part, execution, requests)) for part in join["Values"])
        if value.keys() != {"Get"}:
            return {key: self._resolved(item, execution, requests) for key, item in value.items()}
        kind, name, *path = value["Get"].split(".", 2)
        if kind == "Parameters":
            return execution.parameters[name]
        if kind == "Execution":
            return execution.arn if name.endswith("Arn") else execution.arn.rpartition("/")[2]
        if path[0] == "TrainingJobName":
            return self._job_name(execution, name)
        if path[0] == "OutputDataConfig.S3OutputPath":
            return self._resolved(requests[name]["OutputDataConfig"]["S3OutputPath"], execution, requests)
        output = re.search(r"\['(\w+)'\]", path[0])[1]
        (uri,) = (
            item["S3Output"]["S3Uri"]
            for item in requests[name]["ProcessingOutputConfig"]["Outputs"]
            if item["OutputName"] == output
        )
        return self._resolved(uri, execution, requests)

    def _job_name(self, execution: Execution, step: str) -> str:
        return f"pipelines-{execution.arn.rpartition('/')[2]}-{step}"

    def _next(self, stem: str, model_type: str) -> Course:
        coming = self.courses.get((stem, model_type), [])
        return coming.pop(0) if coming else Course()

    def _find(self, request: Json) -> Execution:
        return next(e for e in self.executions if e.arn == request["PipelineExecutionArn"])

    def _stem(self, pipeline: str) -> str:
        stem = pipeline.removeprefix("srl-rlvr-").replace("post-training", "post_training")
        known = stem in self.definitions or (DEFINITIONS / f"{stem}.json").is_file()
        if stem in self.missing or not known:
            raise error("StartPipelineExecution", "ResourceNotFound", f"pipeline {pipeline} does not exist")
        return stem

    def _definition(self, stem: str) -> Json:
        if stem in self.definitions:
            return self.definitions[stem]
        return json.loads((DEFINITIONS / f"{stem}.json").read_text(encoding="utf-8"))


def verdict(tier: str, evidence: str, drift: float) -> Json:
    """What the look at a tier says: of Gold, the course's drift, where it serves."""
    if evidence == "none":
        return {"tier": tier, "verdict": "unknown", "detail": "no version serves"}
    index = drift if tier == "gold" else 0.0
    said = "block" if index > BLOCK else "none"
    detail = f"what is asked has moved by {index:.2f}"
    return {"tier": tier, "verdict": said, "detail": detail, "InputDriftPSI": index, "RewardDriftPSI": index}


def leaves(steps: list[Json], accepted: bool) -> Iterator[Json]:
    """The jobs of a definition, those behind its gates where they are open."""
    for step in steps:
        if step["Type"] != "Condition":
            yield step
        elif accepted:
            yield from leaves(step["Arguments"]["IfSteps"], accepted)


def error(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    """An error as botocore raises it: by its class where the service declares the code."""
    metadata = {"HTTPStatusCode": status, "RequestId": "0"}
    kind = {"ResourceNotFound": "ResourceNotFound", "ResourceLimitExceeded": "ResourceLimitExceeded"}.get(code)
    raised = type(kind, (ClientError,), {}) if kind else ClientError
    return raised({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)

"""An AWS account for the state machines: moto's, with what it lacks in front of it.

Every call of a state is checked against its service's model, may be faulted by a test's script, and honours the tokens that
make a repeated call the same call, which moto ignores.
"""

import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from asl_interpreter import interpreting
from aws_calls import faults, operation
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from pipeline_runs import COLLECTION, PipelineRuns, error

from pipelines.compilers.collection import compile_collection

Json = dict[str, Any]
MACHINES = Path(__file__).resolve().parents[2] / "step_functions"
REGION, NUMBER = "us-east-1", DEFAULT_ACCOUNT_ID
TIERS = ("bronze", "silver", "gold")
BINDINGS = {
    "account": NUMBER,
    "region": REGION,
    "partition": "aws",
    "name": "srl-rlvr-prod",
    "bucket": "srl-rlvr-prod",
    "nights": "srl-rlvr/nights",
    "pipeline_prefix": "srl-rlvr",
    "alerts_topic": f"arn:aws:sns:{REGION}:{NUMBER}:srl-rlvr-prod-alerts",
    "reports_topic": f"arn:aws:sns:{REGION}:{NUMBER}:srl-rlvr-prod-reports",
    "metrics_namespace": "SrlRlvr/srl-rlvr-prod",
    "model_types": "npc_dialogue",
    "promotion": "auto",
    "serving_image": f"{NUMBER}.dkr.ecr.{REGION}.amazonaws.com/srl-rlvr/serving:0.1.0",
    **{f"{tier}_base": f"s3://srl-rlvr-prod/policies/{tier}/" for tier in TIERS},
    **{f"{tier}_usd_per_hour": usd for tier, usd in zip(TIERS, ("393.2", "98.3", "5.75"), strict=True)},
    "budgets_usd": "{'bronze': 30000, 'silver': 3000, 'gold': 300}",
    "at_most_usd": str(
        {
            f"{dag}-{tier}-on-demand": usd
            for dag in ("post-training", "distillation")
            for tier, usd in (("silver", 2600), ("gold", 150))
        }
    ),
}
"""What Terraform fills in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A call that ends in an error."""

    code: str = "ThrottlingException"
    message: str = "Rate exceeded"
    status: int = 400
    done: bool = False
    """Whether the call took effect and only its answer was lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    topic: str
    subject: str
    text: str


@dataclass
class AwsAccount:
    """The account; made by `aws_account`."""

    bindings: Json
    pipelines: PipelineRuns
    script: dict[str, list[Fault | None]] = field(default_factory=dict)
    """What becomes of the coming calls, by service:operation; those that are not named are carried out."""
    waited: float = 0.0
    """Seconds of all pauses, skipped."""
    calls: Counter[str] = field(default_factory=Counter)
    messages: list[Message] = field(default_factory=list)
    packages: dict[str, Json] = field(default_factory=dict)
    """The request that made each model package, by ARN."""
    flips: list[tuple[str, str]] = field(default_factory=list)
    """(package, status) of every change of an approval."""
    by_hand: list[str] = field(default_factory=list)
    """Packages that a person approved."""
    metrics: list[Json] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)
    """What this stand-in itself could not do, or what a call got wrong: faults of a machine or of a test."""
    _tokens: dict[tuple[str, str], Json] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(service, region_name=REGION)
        return self._clients[service]

    def wait(self, seconds: float) -> None:
        self.waited += seconds

    def call(self, service: str, operation_name: str, parameters: Json) -> Json:
        name = f"{service}:{operation_name}"
        with self._lock:
            self.calls[name] += 1
            try:
                wrong = list(faults(operation(service, operation_name).input_shape, parameters, name))
                assert not wrong, "; ".join(wrong)
                coming = self.script.get(name, [])
                fault = coming.pop(0) if coming else None
                answer = self._once(name, parameters) if fault is None or fault.done else {}
            except ClientError:
                raise
            except BaseException as unexpected:
                self.broken.append(unexpected)
                raise
            if fault is not None:
                raise error(operation_name, fault.code, fault.message, fault.status)
            return answer

    def _once(self, name: str, parameters: Json) -> Json:
        """The answer to a call; a token that was seen before gives the answer that it got then."""
        token = parameters.get("ClientRequestToken") or parameters.get("ClientToken")
        if token is None:
            return self._answer(name, parameters)
        if (name, token) not in self._tokens:
            self._tokens[name, token] = {"request": parameters, "answer": self._answer(name, parameters)}
        known = self._tokens[name, token]
        assert known["request"] == parameters, f"{name}: one token for two different requests"
        return known["answer"]

    def _answer(self, name: str, parameters: Json) -> Json:
        own = {
            "sagemaker:start_pipeline_execution": self.pipelines.start,
            "sagemaker:describe_pipeline_execution": self.pipelines.describe,
            "sagemaker:list_pipeline_execution_steps": self.pipelines.list_steps,
            "sagemaker:stop_pipeline_execution": self.pipelines.stop,
            "sagemaker:retry_pipeline_execution": self.pipelines.retry,
            "sagemaker:describe_processing_job": self.pipelines.describe_processing_job,
        }
        if name in own:
            return own[name](parameters)
        service, operation_name = name.split(":")
        if "Body" in parameters:
            parameters = parameters | {"Body": json.dumps(parameters["Body"])}
        answer = getattr(self.client(service), operation_name)(**parameters)
        if name == "sagemaker:describe_model_package":  # moto takes the properties and forgets them
            created = self.packages.get(answer["ModelPackageArn"], {})
            answer |= {key: created[key] for key in ("CustomerMetadataProperties",) if key in created}
        self._note(name, parameters, answer)
        answer.pop("ResponseMetadata", None)
        if "Body" in answer:
            answer["Body"] = answer["Body"].read().decode()
        return json.loads(json.dumps(answer, default=str))

    def _note(self, name: str, parameters: Json, answer: Json) -> None:
        if name == "sns:publish":
            topic = parameters["TopicArn"].rpartition("-")[2]
            self.messages.append(Message(topic=topic, subject=parameters["Subject"], text=parameters["Message"]))
        elif name == "sagemaker:create_model_package":
            self.packages[answer["ModelPackageArn"]] = parameters
        elif name == "sagemaker:update_model_package":
            self.flips.append((parameters["ModelPackageArn"], parameters["ModelApprovalStatus"]))
        elif name == "cloudwatch:put_metric_data":
            self.metrics += parameters["MetricData"]

    def put(self, uri: str, text: str) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=text.encode())

    def record(self, key: str) -> Any:
        """The JSON below ${nights}; none where there is no such object."""
        s3 = self.client("s3")
        full = f"{self.bindings['nights']}/{key}"
        if not s3.list_objects_v2(Bucket=self.bindings["bucket"], Prefix=full).get("Contents"):
            return None
        return json.loads(s3.get_object(Bucket=self.bindings["bucket"], Key=full)["Body"].read())

    def put_record(self, key: str, value: Json) -> None:
        """Write an object below ${nights}."""
        self.put(f"s3://{self.bindings['bucket']}/{self.bindings['nights']}/{key}", json.dumps(value))

    def records(self, prefix: str) -> list[str]:
        """Keys of the objects below ${nights}/PREFIX."""
        full = f"{self.bindings['nights']}/{prefix}"
        listed = self.client("s3").list_objects_v2(Bucket=self.bindings["bucket"], Prefix=full).get("Contents", ())
        return [item["Key"].removeprefix(f"{self.bindings['nights']}/") for item in listed]

    def champion(self, tier: str, model_type: str = "npc-dialogue") -> str | None:
        """The newest approved package: what consumers serve."""
        found = self.client("sagemaker").list_model_packages(
            ModelPackageGroupName=f"srl-rlvr-prod-{model_type}-{tier}",
            ModelApprovalStatus="Approved",
            SortBy="CreationTime",
            SortOrder="Descending",
        )["ModelPackageSummaryList"]
        return found[0]["ModelPackageArn"] if found else None

    def add_version(self, tier: str, status: str = "Approved", model_type: str = "npc-dialogue") -> str:
        """A package as an earlier night left it."""
        source = {"S3Uri": f"s3://srl-rlvr-prod/runs/{tier}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        container = {"Image": self.bindings["serving_image"], "ModelDataSource": {"S3DataSource": source}}
        evidence = {"ContentType": "application/json", "S3Uri": f"{source['S3Uri']}evaluation/report/report.json"}
        package = self.client("sagemaker").create_model_package(
            ModelPackageGroupName=f"srl-rlvr-prod-{model_type}-{tier}",
            ModelApprovalStatus=status,
            ModelMetrics={"ModelQuality": {"Statistics": evidence}},
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )["ModelPackageArn"]
        if status == "Approved":
            self.by_hand.append(package)
        return package

    def deploy(self, polls: int | None) -> None:
        """Every machine, as Terraform does it."""
        for file in sorted(MACHINES.glob("*.asl.json")):
            name = file.name.removesuffix(".asl.json").replace("_", "-")
            text = re.sub(r"\$\{(\w+)\}", lambda found: self.bindings[found[1]], file.read_text(encoding="utf-8"))
            if polls is not None:
                text = re.sub(r"'polls': \d+", f"'polls': {polls}", text)
            self.client("stepfunctions").create_state_machine(
                name=f"srl-rlvr-prod-{name}", definition=text, roleArn=f"arn:aws:iam::{NUMBER}:role/machine"
            )

    def start(self, machine: str, given: Json, name: str) -> str:
        """Start an execution and return its ARN."""
        return self.client("stepfunctions").start_execution(
            stateMachineArn=f"arn:aws:states:{REGION}:{NUMBER}:stateMachine:srl-rlvr-prod-{machine}",
            input=json.dumps(given),
            name=name,
        )["executionArn"]

    def end(self, execution: str, seconds: float = 240.0) -> Json:
        """How an execution ended."""
        deadline = time.monotonic() + seconds
        while (found := self.client("stepfunctions").describe_execution(executionArn=execution))["status"] == "RUNNING":
            assert time.monotonic() < deadline, f"{execution} does not end"
            time.sleep(0.1)
        return found

    def night(self, date: str, name: str | None = None, **given: Any) -> Json:
        """One night, to the end of everything that it started."""
        name = name or f"night-{date}"
        found = self.end(self.start("nightly", {"scheduled": f"{date}T01:00:00Z", **given}, name))
        for execution in list(self._executions("training-run")):
            self.end(execution)
        return found

    def forget(self, execution: str) -> None:
        """Let the next start of the same name be the same execution, from its first state: more than a redrive repeats."""
        backend = stepfunctions_parser_backends[NUMBER][REGION]
        for machine in backend.state_machines:
            machine.executions = [item for item in machine.executions if item.execution_arn != execution]

    def abort_when_flying(self, execution: str, flights: int = 2) -> None:
        """Stop a night and all its runs, as a person or an outage does, once they have started their pipelines."""
        deadline = time.monotonic() + 120
        while sum(run.polls > 0 for run in self.pipelines.executions if run.pipeline != COLLECTION) < flights:
            assert time.monotonic() < deadline, "the night starts nothing"
            time.sleep(0.05)
        for arn in [execution, *self._executions("training-run")]:
            self.client("stepfunctions").stop_execution(executionArn=arn)
        for arn in self._executions("training-run"):
            self.end(arn)
        time.sleep(0.5)
        # moto lets a stopped execution evaluate one more state, with values that are not its own.
        self.broken.clear()

    def _executions(self, machine: str) -> Iterator[str]:
        arn = f"arn:aws:states:{REGION}:{NUMBER}:stateMachine:srl-rlvr-prod-{machine}"
        for item in self.client("stepfunctions").list_executions(stateMachineArn=arn)["executions"]:
            yield item["executionArn"]


@contextmanager
def aws_account(*, polls: int | None = None, **bindings: str) -> Iterator[AwsAccount]:
    """A new account with the bucket, the topics, the model package groups and the machines.

    `polls` shortens the time that the machines give an execution.
    """
    bound = BINDINGS | bindings
    # Its interpreter logs every failed state with the whole state; what fails here is meant to.
    logging.getLogger("moto.stepfunctions").setLevel(logging.CRITICAL + 1)
    config = {"stepfunctions": {"execute_state_machine": True}}
    with mock_aws(config=config):
        pipelines = PipelineRuns(
            put=lambda uri, text: account.put(uri, text),
            definitions={COLLECTION: compile_collection("prod").definition},
        )
        account = AwsAccount(bindings=bound, pipelines=pipelines)
        account.client("s3").create_bucket(Bucket=bound["bucket"])
        for topic in ("alerts", "reports"):
            account.client("sns").create_topic(Name=f"srl-rlvr-prod-{topic}")
        for model_type in bound["model_types"].split(","):
            for tier in TIERS:
                group = f"srl-rlvr-prod-{model_type.replace('_', '-')}-{tier}"
                account.client("sagemaker").create_model_package_group(
                    ModelPackageGroupName=group, ModelPackageGroupDescription=group
                )
        with interpreting(account):
            account.deploy(polls)
            yield account
        if account.broken:
            raise account.broken[0]

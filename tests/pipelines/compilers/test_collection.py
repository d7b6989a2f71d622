"""The pipeline with which a night begins: what AWS would take, and its two commands run on moto's S3."""

import importlib
import json
import random
import re
from datetime import UTC, datetime

import boto3
import pytest
from botocore.session import Session
from botocore.validate import ParamValidator
from moto import mock_aws

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Split, Tier
from components.shared.serving.trace_shipping import TraceShipper
from components.shared.serving.traces import TraceWriter
from components.shared.storage.paths import PROJECT
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from pipelines.compilers.collection import SERVED, collection_files, compile_collection

BUCKET, NIGHT = "srl-rlvr-prod", "2026-01-06"
MACHINE = json.loads((PROJECT / "step_functions" / "collection.asl.json").read_text())["States"]
STATES = MACHINE["Guarded"]["Branches"][0]["States"]
GIVEN = {"model_type": "npc_dialogue", "night": NIGHT}


def steps():
    return {step["Name"]: step["Arguments"] for step in compile_collection("prod").definition["Steps"]}


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_its_jobs_are_ones_that_aws_takes(environment):
    model = Session().get_service_model("sagemaker").operation_model("CreateProcessingJob").input_shape
    for step in compile_collection(environment).definition["Steps"]:
        request = step["Arguments"]
        request["AppSpecification"]["ContainerArguments"] = filled(request["AppSpecification"]["ContainerArguments"])
        report = ParamValidator().validate({"ProcessingJobName": step["Name"], **request}, model)
        assert not report.has_errors(), report.generate_report()


def test_each_job_has_a_role_of_its_own():
    roles = {name: request["RoleArn"].rpartition("/")[2] for name, request in steps().items()}
    assert roles == {name: f"srl-rlvr-prod-{name}" for name in ("trace-collection", "serving-drift")}


def test_it_has_the_name_and_the_parameters_that_the_state_machine_starts_it_with():
    pipeline = compile_collection("prod")
    assert pipeline.name == STATES["Start"]["Arguments"]["PipelineName"].replace("${pipeline_prefix}", "srl-rlvr")
    asked = {parameter["Name"] for parameter in pipeline.definition["Parameters"]}
    tiers = re.findall(r"'(\w+)'", STATES["Baselines"]["Items"])
    assert asked == {*re.findall(r"'Name': '(\w+)'", STATES["Baselines"]["Assign"]["parameters"])} | {
        f"{tier}_evidence" for tier in tiers
    }
    assert {p["Name"] for p in pipeline.definition["Parameters"] if "DefaultValue" not in p} == GIVEN.keys()


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket to which one router shipped a day's file."""
    for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    trainer, rng = create_trainer("npc_dialogue", "wrackmere"), random.Random(5)
    writer = TraceWriter(tmp_path / "traces")
    for scenario in trainer.scenarios(rng, 120, [Split.TRAIN]):
        right = trainer.completion(trainer.demonstrate(scenario, rng, Habits(visible=1.0, hidden=1.0, noise=0.0)))
        writer.write(
            model_type="npc_dialogue", tier=Tier.BRONZE, policy="p", prompt=scenario.prompt, completion=right,
            latency_ms=1.0, scenario=scenario,
        )  # fmt: skip
    writer.close()
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        day = datetime(2026, 1, 5, 12, tzinfo=UTC)
        TraceShipper(writer, tmp_path / "outbox", f"s3://{BUCKET}/{SERVED}", now=lambda: day).ship()
        yield s3


def filled(arguments):
    """A command's arguments in an execution before anything serves."""
    values = GIVEN | {f"{tier}_evidence": "none" for tier in Tier}

    def text(value):
        if isinstance(value, str):
            return str(value)
        if "Get" in value:
            return values[value["Get"].removeprefix("Parameters.")]
        return value["Std:Join"]["On"].join(map(text, value["Std:Join"]["Values"]))

    return [text(argument) for argument in arguments]


def carried_out(name):
    """Run a step's command and return the exit code."""
    request = steps()[name]["AppSpecification"]
    *python, module = request["ContainerEntrypoint"]
    assert python == ["python", "-m"]
    found = importlib.import_module(module)
    command = found if hasattr(found, "main") else importlib.import_module(f"{module}.__main__")
    return command.main(filled(request["ContainerArguments"]))


@pytest.mark.parametrize(
    ("step", "state", "said"),
    [
        ("trace-collection", "Traces", lambda body: body["kept"] >= 100 and body["uri"].startswith(f"s3://{BUCKET}/traces")),
        ("serving-drift", "Drift", lambda body: [tier["detail"] for tier in body["tiers"]] == ["no version serves"] * 3),
    ],
)  # fmt: skip
def test_what_a_job_leaves_is_where_the_state_machine_reads_it(bucket, step, state, said):
    from jsonata import Jsonata

    assert carried_out(step) == 0
    expression = STATES[state]["Arguments"]["Key"][2:-2].replace("${nights}", "srl-rlvr/nights")
    key = Jsonata(f"({expression})").evaluate(None, {"run": GIVEN})
    assert said(json.loads(bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read()))


def test_an_environment_without_an_account_has_none():
    with pytest.raises(UsageError):
        collection_files("local")

"""`srl-rlvr drift` as it is typed, on a machine and in moto's account."""

import json
import random
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto import mock_aws

from components.shared.contracts.records import Split, Tier
from components.shared.contracts.weakness import Checked, Evaluated
from components.shared.monitoring.catalogue import namespace_of
from components.shared.serving.traces import TraceWriter
from components.shared.storage.jsonl import write_jsonl
from components.shared.storage.paths import PROJECT
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)
REGION, BUCKET, GROUP = "us-east-1", "srl-rlvr-prod", "srl-rlvr-prod-npc-dialogue-gold"


@pytest.fixture(scope="module")
def world():
    """A trainer, and scenarios with right answers."""
    trainer = create_trainer("npc_dialogue", "wrackmere")
    rng = random.Random(3)
    scenarios = list(trainer.scenarios(rng, 500, [Split.TEST]))
    return scenarios, [trainer.completion(trainer.demonstrate(s, rng, FLAWLESS)) for s in scenarios]


@pytest.fixture
def folders(world, tmp_path):
    """Evidence, the traces of a policy that answers right, and those of one that does not."""
    scenarios, answers = world
    perfect = {"candidate": Checked(score=1.0, correct=True, faults=())}
    rows = [Evaluated(scenario=s.id, traits={}, difficulty=s.difficulty, outcomes=perfect) for s in scenarios]
    write_jsonl(tmp_path / "evidence" / "answers.jsonl", rows)
    for name, told in (("good", answers), ("bad", ["well met"] * len(answers))):
        writer = TraceWriter(tmp_path / name)
        for scenario, text in zip(scenarios[:200], told, strict=False):
            writer.write(
                model_type="npc_dialogue", tier=Tier.GOLD, policy="p", prompt=scenario.prompt, completion=text,
                latency_ms=9.0, scenario=scenario,
            )  # fmt: skip
        writer.close()
    return tmp_path


@pytest.fixture
def typed(srl_rlvr):
    return lambda *arguments: srl_rlvr("drift", "--model-type", "npc_dialogue", *map(str, arguments))


def test_on_this_machine(folders, typed):
    (file,) = (folders / "good").iterdir()
    with file.open("a") as killed:
        killed.write('{"id": "cut sho')
    code, out, err = typed(folders / "good", "--evidence", folders / "evidence")
    assert (code, err) == (0, "") and out.startswith("200 of 200 traces against 500 scenarios of")
    assert "drift: none\n" in out and "difficulty" in out
    code, out, _ = typed(folders / "bad", "--evidence", folders / "evidence", "--json")
    found = json.loads(out)
    assert code == 3 and found["verdict"] == "block" and found["RewardDriftPSI"] > 0.25
    assert found["InputDriftPSI"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("good", "--tier", "golden"), "unknown tier 'golden'"),
        (("good",), "npc_dialogue-gold: no version serves: pass --evidence"),
        (("good", "--evidence", "evidence", "--publish"), "has no AWS account: --publish has nowhere to send it"),
        (("good", "--evidence", "nowhere"), "no folder nowhere: check the path"),
        (("evidence", "--evidence", "evidence"), "none of 0 traces of npc_dialogue on gold can be compared"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(folders, typed, monkeypatch, arguments, said):
    monkeypatch.chdir(folders)
    code, out, err = typed(*arguments)
    assert code in (1, 2, 3) and out == "" and said in err and err.count("\n") == 1


@pytest.fixture
def account(folders, monkeypatch):
    """A champion whose package names its evidence, after one that does not."""
    for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        sagemaker, s3 = (boto3.client(service, region_name=REGION) for service in ("sagemaker", "s3"))
        s3.create_bucket(Bucket=BUCKET)
        s3.upload_file(str(folders / "evidence" / "answers.jsonl"), BUCKET, "runs/7/evaluation/report/answers.jsonl")
        s3.put_object(Bucket=BUCKET, Key="runs/7/evaluation/report/report.json", Body=b'{"metrics": {"greedy": 1.0}}')
        sagemaker.create_model_package_group(ModelPackageGroupName=GROUP, ModelPackageGroupDescription=GROUP)
        evidence = {"ContentType": "application/json", "S3Uri": f"s3://{BUCKET}/runs/7/evaluation/report/report.json"}

        def approve(**more):
            sagemaker.create_model_package(
                ModelPackageGroupName=GROUP, ModelApprovalStatus="Approved", ModelPackageDescription="v",
                InferenceSpecification={"Containers": [{"Image": "i"}]}, **more,
            )  # fmt: skip

        yield lambda: approve(ModelMetrics={"ModelQuality": {"Statistics": evidence}}), approve


def test_the_champions_own_evidence_is_the_baseline_and_the_result_is_published(account, folders, typed):
    with_evidence, _ = account
    with_evidence()
    code, out, err = typed(folders / "bad", "--env", "prod", "--publish")
    assert code == 3, err
    assert f"against 500 scenarios of s3://{BUCKET}/runs/7/evaluation/report" in out
    cloudwatch = boto3.client("cloudwatch", region_name=REGION)
    named = {"Tier": "gold", "ModelType": "npc_dialogue"}
    for names in (("Tier",), ("Tier", "ModelType")):
        (point,) = cloudwatch.get_metric_statistics(
            Namespace="SrlRlvr/srl-rlvr-prod",
            MetricName="RewardDriftPSI",
            Dimensions=[{"Name": name, "Value": named[name]} for name in names],
            StartTime=datetime.now(UTC) - timedelta(hours=1),
            EndTime=datetime.now(UTC) + timedelta(hours=1),
            Period=86_400,
            Statistics=["Maximum"],
        )["Datapoints"]
        assert point["Maximum"] > 0.25


def test_an_account_in_which_nothing_serves_or_no_evidence_is_named(account, folders, typed):
    _, without_evidence = account
    assert "npc_dialogue-gold: no version serves" in typed(folders / "good", "--env", "prod")[2]
    without_evidence()
    assert "names no evidence: pass --evidence" in typed(folders / "good", "--env", "prod")[2]


def test_the_namespace_is_terraforms():
    text = (PROJECT / "infrastructure" / "terraform" / "modules" / "monitoring" / "catalogue.tf").read_text()
    main = (PROJECT / "infrastructure" / "terraform" / "main.tf").read_text()
    assert 'metrics_namespace = "SrlRlvr/${var.context.name}"' in text
    assert '"srl-rlvr-${var.environment}"' in main
    assert namespace_of("prod") == "SrlRlvr/srl-rlvr-prod"

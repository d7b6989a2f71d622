"""The janitor on moto's account: what is idle goes, what lives stays, and nothing goes unasked."""

import json
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from pipelines.operations import janitor as module

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "srl-rlvr-dev"


def sagemaker():
    return boto3.client("sagemaker", region_name=REGION)


def endpoint(name, **tags):
    client = sagemaker()
    client.create_model(ModelName=f"{name}-model", ExecutionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/x")
    variant = {"VariantName": "main", "ModelName": f"{name}-model", "InstanceType": "ml.m5.xlarge"}
    client.create_endpoint_config(
        EndpointConfigName=f"{name}-config", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
    )
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    client.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-config", Tags=listed)


def called(name, count=1.0, days_ago=1):
    dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "main"}]
    when = datetime.now(UTC) + timedelta(days=30 - days_ago)
    datum = {"MetricName": "Invocations", "Dimensions": dimensions, "Value": count, "Timestamp": when}
    boto3.client("cloudwatch", region_name=REGION).put_metric_data(Namespace="AWS/SageMaker", MetricData=[datum])


@pytest.fixture
def account(aws, monkeypatch):
    """An account as it is found thirty days later: moto gives every resource the present as its time."""
    boto3.client("s3", region_name=REGION).create_bucket(Bucket=BUCKET)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=30)

    monkeypatch.setattr(module, "datetime", Later)
    return aws


def names():
    return {item["EndpointName"] for item in sagemaker().list_endpoints()["Endpoints"]}


def put(key, text="x"):
    boto3.client("s3", region_name=REGION).put_object(Bucket=BUCKET, Key=f"srl-rlvr/{key}", Body=text.encode())


def keys():
    found = boto3.client("s3", region_name=REGION).list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"] for item in found}


def test_an_idle_endpoint_goes_when_told_to_and_every_live_one_stays(srl_rlvr, account, configs):
    for name in ("srl-rlvr-dev-idle", "srl-rlvr-dev-busy", "srl-rlvr-dev-routed", "payments", "srl-rlvr-devil"):
        endpoint(name)
    endpoint("srl-rlvr-dev-kept", **{"srl-rlvr:keep": "demo"})
    called("srl-rlvr-dev-busy")
    called("srl-rlvr-dev-idle", days_ago=20)
    router = configs / "serving" / "router.yaml"
    router.write_text(router.read_text() + "# served\n")
    text = router.read_text().replace("model: gold}", "model: gold, url: srl-rlvr-dev-routed}")
    router.write_text(text)
    before = names()
    code, out, err = srl_rlvr("janitor", "--env", "dev")
    assert code == 0, err
    assert "would remove  endpoint    srl-rlvr-dev-idle  (no invocation in 14 days)" in out
    assert "nothing was removed: pass --yes" in out and names() == before
    assert "1 invocations in 14 days" in out and "its tag srl-rlvr:keep" in out and "router.yaml names it" in out
    assert "payments" not in out and "srl-rlvr-devil" not in out
    code, out, _ = srl_rlvr("janitor", "--env", "dev", "--yes", "--json")
    assert code == 0 and [f["name"] for f in json.loads(out)["findings"] if f["removable"]] == ["srl-rlvr-dev-idle"]
    assert names() == before - {"srl-rlvr-dev-idle"}


def test_a_young_endpoint_stays(srl_rlvr, aws, configs):
    boto3.client("s3", region_name=REGION).create_bucket(Bucket=BUCKET)
    endpoint("srl-rlvr-dev-new")
    _, out, _ = srl_rlvr("janitor", "--env", "dev", "--yes")
    assert "keep" in out and "younger than 14 days" in out
    assert names() == {"srl-rlvr-dev-new"}


def test_an_endpoint_that_is_called_between_the_look_and_the_removal_stays(account, configs):
    from pipelines.configuration import load_settings

    endpoint("srl-rlvr-dev-idle")
    found = module.janitor(load_settings("dev").environment.sagemaker, "dev", 14, 7)
    (finding,) = found.findings()
    assert finding.removable
    called("srl-rlvr-dev-idle")
    found.remove(finding)
    assert names() == {"srl-rlvr-dev-idle"}


def test_where_calls_cannot_be_counted_nothing_is_removed(srl_rlvr, account, configs):
    endpoint("srl-rlvr-dev-idle")
    account("cloudwatch", "GetMetricStatistics", "AccessDenied")
    code, out, err = srl_rlvr("janitor", "--env", "dev", "--yes")
    assert (code, out) == (1, "")
    assert err.startswith("error: invocations of srl-rlvr-dev-idle: AccessDenied") and "let your role do it" in err
    assert names() == {"srl-rlvr-dev-idle"}


def test_old_checkpoints_go_but_those_of_a_run_in_flight_stay(srl_rlvr, account, configs):
    put("checkpoints/gold/npc_dialogue/2026-01-05/srl/state.json")
    put("checkpoints/gold/npc_dialogue/2026-01-05/rlvr/state.json")
    put("checkpoints/bronze/npc_dialogue/2026-01-05/srl/state.json")
    put("nights/state/npc_dialogue/flights/bronze.json", json.dumps({"night": "2026-01-05"}))
    put("policies/gold/model.safetensors")
    everything = keys()
    _, out, _ = srl_rlvr("janitor", "--env", "dev")
    assert "would remove  checkpoints srl-rlvr/checkpoints/gold/npc_dialogue/2026-01-05/" in out
    assert "a run in flight goes on from them" in out and keys() == everything
    assert srl_rlvr("janitor", "--env", "dev", "--yes")[0] == 0
    gone = {key for key in everything if "/checkpoints/gold/" in key}
    assert keys() == everything - gone and len(gone) == 2
    assert "keep" in srl_rlvr("janitor", "--env", "dev", "--checkpoint-days", "99")[1]


def test_a_look_into_the_wrong_account_or_the_placeholders(srl_rlvr, aws, configs):
    file = configs / "environments" / "dev.yaml"
    file.write_text(file.read_text().replace(ACCOUNT, "999988887777"))
    code, _, err = srl_rlvr("janitor", "--env", "dev")
    assert code == 2 and f"the credentials are of account {ACCOUNT}, environment 'dev' is account 999988887777" in err
    file.write_text(file.read_text().replace("999988887777", "111122223333"))
    code, _, err = srl_rlvr("janitor", "--env", "dev")
    assert code == 2 and "is the placeholder of AWS's documentation" in err


@pytest.mark.parametrize(
    ("service", "operation", "code", "remedy"),
    [
        ("sts", "GetCallerIdentity", "ExpiredToken", "sign in again (`aws sso login`)"),
        ("sagemaker", "ListEndpoints", "ThrottlingException", "wait, or have the quota raised"),
        ("s3", "ListObjectsV2", "AccessDenied", "let your role do it"),
    ],
)
def test_what_aws_refuses_is_one_line_with_the_remedy(srl_rlvr, account, configs, service, operation, code, remedy):
    account(service, operation, code)
    exit_code, out, err = srl_rlvr("janitor", "--env", "dev", "--yes")
    assert (exit_code, out) == (1, "")
    assert code in err and err.endswith(f"{remedy}\n") and err.count("\n") == 1

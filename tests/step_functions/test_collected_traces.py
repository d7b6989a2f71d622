"""The night's collection, by itself: what it is started with and leaves; and that what it has noted for a night stands."""

import json

import pytest
from aws_account import BINDINGS, Fault, aws_account
from fault_scripts import MODEL, NIGHT
from pipeline_runs import COLLECTION, Course

RUN = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
KEY = f"{BINDINGS['nights']}/state/{MODEL}/traces.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noted", "stands"),
    [
        (None, False),
        ({"uri": "s3://srl-rlvr-prod/old/", "night": NIGHT, "execution": "e"}, False),
        ({"uri": "s3://srl-rlvr-prod/old/", "night": "2000-01-01", "stage": "trace_collection"}, False),
        ({"uri": "s3://srl-rlvr-prod/collected/", "night": NIGHT, "stage": "trace_collection"}, True),
    ],
)
def test_collected_traces_of_the_night_go_before_the_verified_trajectories(noted, stands):
    with aws_account() as account:
        account.pipelines.courses["post_training-gold", MODEL] = [Course()]
        s3 = account.client("s3")
        if noted:
            s3.put_object(Bucket=BINDINGS["bucket"], Key=KEY, Body=json.dumps(noted))
        account.end(account.start("training-run", RUN, "run"))
        found = json.loads(s3.get_object(Bucket=BINDINGS["bucket"], Key=KEY)["Body"].read())
    if stands:
        assert found == noted
    else:
        assert found["night"] == NIGHT and found["uri"].rstrip("/").endswith("verified")


COLLECT = RUN | {"dag": "collection", "tier": "bronze", "reason": "nightly"}


def collect(account, name="run"):
    return json.loads(account.end(account.start("collection", COLLECT, name))["output"])


@pytest.mark.slow
def test_it_is_started_with_the_evidence_of_what_serves_and_leaves_a_note_and_the_indices():
    with aws_account() as account:
        for tier in ("silver", "gold"):
            account.add_version(tier)
        account.pipelines.courses[COLLECTION, MODEL] = [Course(drift=0.4)]
        ended = collect(account)
        (execution,) = account.pipelines.executions
        noted = account.record(f"state/{MODEL}/traces.json")
        indices = [m for m in account.metrics if m["MetricName"] == "RewardDriftPSI"]
    assert execution.parameters == {
        "model_type": MODEL, "night": NIGHT, "bronze_evidence": "none",
        "silver_evidence": "s3://srl-rlvr-prod/runs/silver/evaluation/report",
        "gold_evidence": "s3://srl-rlvr-prod/runs/gold/evaluation/report",
    }  # fmt: skip
    assert (ended["outcome"], ended["execution"]) == ("collected", execution.arn)
    assert ended["hours"] == pytest.approx(execution.polls * 120 / 3600)
    assert ended["alert"].startswith("gold has drifted: ") and "bronze drift unknown" in ended["detail"]
    assert (noted["stage"], noted["night"], noted["execution"]) == ("trace_collection", NIGHT, execution.arn)
    assert noted["uri"] == f"s3://srl-rlvr-prod/traces/collected/{MODEL}/night={NIGHT}/"
    published = {tuple(d["Value"] for d in m["Dimensions"]): m["Value"] for m in indices}
    assert published == {("silver",): 0.0, ("silver", MODEL): 0.0, ("gold",): 0.4, ("gold", MODEL): 0.4}


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["sagemaker:start_pipeline_execution", "s3:put_object"])
def test_one_night_and_model_type_is_one_execution_however_often_it_is_run(lost):
    with aws_account() as account:
        account.script[lost] = [Fault(code="RequestTimeout", status=500, done=True)] * 2
        first = collect(account)
        account.forget(f"arn:aws:states:us-east-1:{BINDINGS['account']}:execution:srl-rlvr-prod-collection:run")
        again = collect(account)
        # Each counts the hours that it waited itself.
        assert again | {"hours": first["hours"]} == first
        assert len(account.pipelines.executions) == 1
        assert account.record(f"state/{MODEL}/last/collection-bronze.json") == again

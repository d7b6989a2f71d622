"""The metrics that the machines publish are those of the catalogue, in name, unit and dimensions."""

import json

import pytest
from aws_account import MACHINES, TIERS, aws_account
from aws_calls import states
from fault_scripts import MODEL, NIGHT
from pipeline_runs import Course

from components.shared.monitoring.catalogue import OWN, Emitter

LISTED = {
    (metric.name, metric.unit, names)
    for metric in OWN.values()
    if metric.emitter == Emitter.STATE_MACHINE
    for names in metric.dimensions
}


def shape(datum):
    return datum["MetricName"], datum["Unit"], tuple(item["Name"] for item in datum.get("Dimensions", ()))


def test_every_datum_of_the_machines_is_in_the_catalogue_and_the_other_way_round():
    published = set()
    for file in MACHINES.glob("*.asl.json"):
        for _, state in states(json.loads(file.read_text(encoding="utf-8"))):
            if state.get("Resource", "").endswith(":cloudwatch:putMetricData"):
                assert state["Arguments"]["Namespace"] == "${metrics_namespace}"
                published |= {shape(datum) for datum in state["Arguments"]["MetricData"]}
    assert published == LISTED


@pytest.mark.slow
def test_a_night_publishes_all_of_them():
    with aws_account() as account:
        for tier in TIERS:
            account.add_version(tier)
        account.pipelines.courses["post_training-silver", MODEL] = [Course(accepted=False)]
        account.pipelines.courses["distillation-gold", MODEL] = [
            Course(end="Failed", fails_at="distill-gold", reason="x")
        ]
        account.night(NIGHT)
        sent = account.metrics
        kept = account.client("cloudwatch").list_metrics(Namespace="SrlRlvr/srl-rlvr-prod")["Metrics"]
    assert {shape(datum) for datum in sent} == LISTED
    assert {metric["MetricName"] for metric in kept} == {name for name, *_ in LISTED}
    ends = [{d["Name"]: d["Value"] for d in datum["Dimensions"]} for datum in sent if datum["MetricName"] == "Ended"]
    assert sorted((end["Tier"], end["Outcome"]) for end in ends) == [
        ("gold", "failed"), ("gold", "registered"), ("silver", "refused"), ("silver", "registered"),
    ]  # fmt: skip
    failed = sorted(datum["Value"] for datum in sent if datum["MetricName"] == "Failed")
    assert failed == [0, 0, 0, 1]
    scores = [(datum["MetricName"], datum["Value"]) for datum in sent if datum["MetricName"].startswith("Policy")]
    assert sorted(scores) == [("PolicyScore", 0.8)] * 2 + [("PolicyScoreLow", 0.75)] * 2


@pytest.mark.slow
def test_a_version_whose_evidence_cannot_be_read_is_registered_all_the_same():
    run = {"night": NIGHT, "attempt": 1, "dag": "post_training", "model_type": MODEL, "tier": "gold", "alone": False}
    with aws_account() as account:
        put = account.pipelines.put
        account.pipelines.put = lambda uri, text: None if "/evaluation/report/" in uri else put(uri, text)
        ended = json.loads(account.end(account.start("training-run", run, "run"))["output"])
        assert (ended["outcome"], ended["promoted"]) == ("registered", True)
        assert not any(datum["MetricName"].startswith("Policy") for datum in account.metrics)

"""Each alarm on a bad series, which it must report, and on a good one, on which it must be silent.

The series have the cadence and the values of what emits them: polls of a run, ends of nights, requests. CloudWatch's own
rules judge them (cloudwatch_alarms.py); moto keeps alarms and never evaluates one.
"""

import random
import re

import boto3
import botocore.validate
import pytest
import yaml
from cloudwatch_alarms import judge, state

from components.shared.contracts.records import Tier
from components.shared.monitoring.catalogue import OWN
from components.shared.storage.paths import PROJECT
from components.shared.trainers.trainer_factory import MODEL_TYPES
from pipelines.compilers.alarms import DAY, HOUR, LATENCY_MS, MINUTE, NIGHT_HOURS, alarm, alarms

USD = {Tier.BRONZE: 393.2, Tier.SILVER: 98.3, Tier.GOLD: 5.75}
ALARMS = {request["AlarmName"]: request for request in alarms(USD, tuple(MODEL_TYPES))}
POLL_S = {Tier.BRONZE: 300, Tier.SILVER: 180, Tier.GOLD: 180}
END = 20 * DAY
SILENT: dict = {}


def series(name, *points, **dimensions):
    return {(name, tuple(dimensions.items())): list(points)}


def polls(tier, model_type, runs=1, hours=6):
    """What the state machine publishes while so many runs fly at one time."""
    usd = USD[tier] * POLL_S[tier] / HOUR
    points = [
        (END - hours * HOUR + 17 * run + poll, usd)
        for run in range(runs)
        for poll in range(0, hours * HOUR, POLL_S[tier])
    ]
    return series("EstimatedJobCostUSD", *points, Tier=tier, ModelType=model_type)


def nights(missing=()):
    """Heartbeats of nights that begin at one o'clock and end four to nine hours later."""
    rng = random.Random(0)
    beats = {night: night * DAY + HOUR + rng.uniform(4, 9) * HOUR for night in range(20)}
    return series("NightlyHeartbeat", *((second, 1.0) for night, second in beats.items() if night not in missing))


def ends(*failed):
    return series("Failed", *((END - 9 * HOUR + 600 * i, float(f)) for i, f in enumerate(failed)), Tier="bronze")


def requests(name, value, slow=0.0, slow_value=0.0, minutes=30, **dimensions):
    """Twenty requests a minute; so large a share of them in the last six minutes is different."""
    points = []
    for second in range(END - minutes * MINUTE, END, 3):
        nth = (second // 3) % 20
        bad = second >= END - 6 * MINUTE and nth < 20 * slow
        points.append((second, slow_value if bad else value))
    return series(name, *points, **dimensions)


def spike(name, value, most, **dimensions):
    """One slow minute among fast ones: not worth a message."""
    points = [(END - i * MINUTE, most if i == 2 else value) for i in range(1, 30)]
    return series(name, *points, **dimensions)


def daily(name, value, tier):
    return series(name, *((END - day * DAY - HOUR, value) for day in range(5)), Tier=tier)


CASES = {
    "night-missing": (nights(missing=(18, 19)), [nights(), nights(missing=(3,))]),
    "bronze-failures": (ends(0, 1, 0), [ends(0, 0, 0), SILENT]),
    "latency-gold": (
        requests("TokenMs", 9.0, 0.1, 40.0, Tier="gold"),
        [requests("TokenMs", 9.0, 0.04, 40.0, Tier="gold"), spike("TokenMs", 9.0, 90.0, Tier="gold"), SILENT],
    ),
    "latency-silver": (
        requests("ResponseStartMs", 120.0, 0.1, 400.0, Tier="silver"),
        [requests("ResponseStartMs", 120.0, 0.04, 400.0, Tier="silver"), SILENT],
    ),
    "requests-unanswered": (
        requests("Unanswered", 0.0, 0.2, 1.0),
        [requests("Unanswered", 0.0, 0.05, 1.0), spike("Unanswered", 0.0, 1.0), SILENT],
    ),
    "traces-lost": (requests("TraceLost", 0.0, 0.05, 1.0), [requests("TraceLost", 0.0), SILENT]),
    **{
        f"{kind}-drift-{tier}": (daily(metric, 0.4, tier), [daily(metric, 0.2, tier), SILENT])
        for kind, metric in (("input", "InputDriftPSI"), ("reward", "RewardDriftPSI"))
        for tier in Tier
    },
    **{
        f"job-cost-{tier}-{model_type.replace('_', '-')}": (
            polls(tier, model_type, runs=2),
            [polls(tier, model_type), SILENT],
        )
        for tier in Tier
        for model_type in MODEL_TYPES
    },
}


def test_every_alarm_has_its_cases():
    assert CASES.keys() == ALARMS.keys()


@pytest.mark.parametrize("more", [0, 2, 6], ids=lambda more: f"range+{more}")
@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_reports_the_bad_and_is_silent_on_the_good(name, more):
    bad, goods = CASES[name]
    assert state(ALARMS[name], bad, END, more=more) == "ALARM"
    for good in goods:
        for minutes in range(0, 60, 7):
            assert state(ALARMS[name], good, END - minutes * MINUTE, more=more) == "OK"


def test_no_hour_of_twenty_good_nights_alarms_and_one_missing_night_does_within_its_hours():
    request = ALARMS["night-missing"]
    for hour in range(2 * 24, 20 * 24):
        assert state(request, nights(), hour * HOUR) == "OK"
    last = max(second for second, _ in nights(missing=(10,))["NightlyHeartbeat", ()] if second < 11 * DAY)
    gap = nights(missing=(10, 11))
    first = next(m for m in range(0, 72 * 60, 10) if state(request, gap, last + m * MINUTE) == "ALARM")
    assert NIGHT_HOURS <= first / 60 < NIGHT_HOURS + 1


def test_a_heartbeat_that_never_was_alarms_too():
    assert state(ALARMS["night-missing"], SILENT, END) == "ALARM"


def test_without_the_filling_an_old_heartbeat_would_hide_the_missing_one():
    """Why the alarm fills: a day's period, as one would write it first, is late by the periods that CloudWatch adds."""
    plain = ALARMS["bronze-failures"] | {
        "MetricName": "NightlyHeartbeat", "Dimensions": [], "Statistic": "Sum", "Threshold": 1.0,
        "ComparisonOperator": "LessThanThreshold", "TreatMissingData": "breaching",
    }  # fmt: skip
    silent_for_two_days = series("NightlyHeartbeat", (END - 50 * HOUR, 1.0))
    assert state(plain, silent_for_two_days, END) == "OK"
    assert state(ALARMS["night-missing"], silent_for_two_days, END) == "ALARM"


OK, ALARM, NONE, KEEP = "OK", "ALARM", "INSUFFICIENT_DATA", "before"


@pytest.mark.parametrize(
    ("points", "m", "expected"),
    [
        ("0 - X - X", 3, (OK, OK, OK, OK)),
        ("0 - - - -", 3, (OK, OK, OK, OK)),
        ("- - - - -", 3, (NONE, KEEP, ALARM, OK)),
        ("0 X X - X", 3, (ALARM, ALARM, ALARM, ALARM)),
        ("- - X - -", 3, (ALARM, KEEP, ALARM, OK)),
        ("0 - X - X", 2, (ALARM, ALARM, ALARM, ALARM)),
        ("0 0 X 0 X", 2, (ALARM, ALARM, ALARM, ALARM)),
        ("0 - X - -", 2, (OK, OK, ALARM, OK)),
        ("- - - - 0", 2, (OK, OK, ALARM, OK)),
        ("- - - X -", 2, (ALARM, KEEP, ALARM, OK)),
        ("- - - - X", 3, (OK, KEEP, ALARM, OK)),
        ("- - - X -", 3, (OK, KEEP, ALARM, OK)),
    ],
)
def test_the_evaluator_agrees_with_the_documentations_tables(points, m, expected):
    """Two tables of three evaluation periods, and the two examples of what would be premature."""
    read = {"0": False, "X": True, "-": None}
    breaching = [read[point] for point in points.split()]
    found = [judge(breaching, 3, m, how, KEEP) for how in ("missing", "ignore", "breaching", "notBreaching")]
    assert found == list(expected)


@pytest.mark.parametrize("request_", ALARMS.values(), ids=ALARMS)
def test_a_request_is_one_that_cloudwatch_takes(request_):
    """By botocore's model, and by the limits that it does not hold."""
    client = boto3.client("cloudwatch", region_name="us-east-1")
    shape = client.meta.service_model.operation_model("PutMetricAlarm").input_shape
    faults = botocore.validate.ParamValidator().validate(request_, shape)
    assert not faults.has_errors(), faults.generate_report()
    period = request_.get("Period") or request_["Metrics"][0]["MetricStat"]["Period"]
    window = period * request_["EvaluationPeriods"]
    assert period % MINUTE == 0 and window <= (DAY if period < HOUR else 7 * DAY)
    assert 1 <= request_["DatapointsToAlarm"] <= request_["EvaluationPeriods"]
    assert request_["ComparisonOperator"] in shape.members["ComparisonOperator"].enum


@pytest.mark.parametrize("request_", ALARMS.values(), ids=ALARMS)
def test_an_alarm_watches_a_metric_of_the_catalogue_and_names_its_runbook(request_):
    watched = [request_] if "MetricName" in request_ else [q["MetricStat"]["Metric"] for q in request_["Metrics"][:1]]
    for metric in watched:
        names = tuple(d["Name"] for d in metric.get("Dimensions", ()))
        assert names in OWN[metric["MetricName"]].dimensions
        assert "Namespace" not in metric, "Terraform fills in the environment's own"
    (page,) = re.findall(r"Runbook: (docs/recovery/[\w-]+\.md)$", request_["AlarmDescription"])
    assert (PROJECT / page).is_file()


def test_names_are_unique_and_a_metric_of_other_dimensions_is_refused():
    assert len(alarms(USD, tuple(MODEL_TYPES))) == len(ALARMS)
    with pytest.raises(ValueError, match="Failed has no dimensions"):
        alarm("x", "Failed", says="", runbook="x", stat="Sum", period=60, above=0, dimensions={"Stage": "srl"})


def test_latencies_and_polls_are_those_of_the_rest_of_the_project():
    text = (PROJECT / "infrastructure" / "terraform" / "variables.tf").read_text(encoding="utf-8")
    targets = dict(re.findall(r"(bronze|silver|gold) = (\d+)", text))
    assert {tier: float(targets[tier]) for tier in LATENCY_MS} == {tier: ms for tier, (_, ms) in LATENCY_MS.items()}
    machine = yaml.safe_load((PROJECT / "step_functions" / "source" / "training_run.yaml").read_text(encoding="utf-8"))
    polled = re.findall(r"'(\w+)': \{'poll_s': (\d+)", machine["machine"]["States"]["Begin"]["Assign"]["limit"])
    assert {tier: int(seconds) for tier, seconds in polled} == POLL_S

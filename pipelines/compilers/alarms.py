"""CloudWatch alarms over the metric catalogue, as requests of PutMetricAlarm; Terraform adds the namespace and the topic.

Every alarm says what is wrong and which page of docs/recovery/ says what to do. A window slides: an alarm with a period of
an hour looks at the last sixty minutes, whatever the clock says (docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/
alarm-evaluation-window.html).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.shared.contracts.records import Tier
from components.shared.monitoring.catalogue import OWN
from components.shared.monitoring.stability import BLOCK

Json = dict[str, Any]

MINUTE, HOUR, DAY = 60, 3_600, 86_400
COST_MARGIN = 1.2
"""Over what a tier's machines cost an hour: the anomaly of 20 % at which the specification alerts."""
LATENCY_MS: Mapping[Tier, tuple[str, float]] = {Tier.GOLD: ("TokenMs", 16.0), Tier.SILVER: ("ResponseStartMs", 250.0)}
"""What a tier's p95 may be: Gold by token, Silver to the response's start. Bronze answers asynchronously."""
MAX_FAILED = 0.05
"""Share of a day's Bronze runs that may fail."""
MAX_UNANSWERED = 0.1
"""Share of requests without an answer, the same at which a canary is rolled back."""
NIGHT_HOURS = 36
"""Hours without a night's report: a day, and twelve hours for a night that ends later than the one before."""


def alarms(usd_per_hour: Mapping[Tier, float], model_types: Sequence[str]) -> list[Json]:
    """Every alarm, for tiers whose machines cost so much an hour."""
    return [
        night_missing(),
        *job_costs(usd_per_hour, model_types),
        bronze_failures(),
        *latencies(),
        unanswered(),
        traces_lost(),
        *drifts(),
    ]


def night_missing() -> Json:
    """No report in NIGHT_HOURS.

    CloudWatch looks further back than the window where data is missing, so that an old heartbeat would hide a missing one
    for periods more: FILL makes every silent hour a 0. Where the metric was never published FILL has nothing to fill,
    and the missing data itself breaches.
    """
    beats = {"Metric": {"MetricName": OWN["NightlyHeartbeat"].name}, "Period": HOUR, "Stat": "Sum"}
    return {
        "AlarmName": "night-missing",
        "AlarmDescription": described(f"No night came to its report in {NIGHT_HOURS} h.", "night-not-started"),
        "Metrics": [
            {"Id": "beats", "MetricStat": beats, "ReturnData": False},
            {"Id": "filled", "Expression": "FILL(beats, 0)", "Label": "nights reported", "ReturnData": True},
        ],
        "EvaluationPeriods": NIGHT_HOURS,
        "DatapointsToAlarm": NIGHT_HOURS,
        "ComparisonOperator": "LessThanThreshold",
        "Threshold": 1.0,
        "TreatMissingData": "breaching",
    }


def job_costs(usd_per_hour: Mapping[Tier, float], model_types: Sequence[str]) -> Iterator[Json]:
    """More in a rolling hour than the one run in flight of a tier and model type can cost."""
    for tier, usd in usd_per_hour.items():
        for model_type in model_types:
            yield alarm(
                f"job-cost-{tier}-{model_type.replace('_', '-')}",
                "EstimatedJobCostUSD",
                says=f"{tier} {model_type} cost more in an hour than its machines do ({usd:g} USD): two runs in flight?",
                runbook="cost-high",
                dimensions={"Tier": tier, "ModelType": model_type},
                stat="Sum",
                period=HOUR,
                above=round(COST_MARGIN * usd, 2),
            )


def bronze_failures() -> Json:
    """Failed is 0 or 1 at every end, so that its mean is the share of a day's runs that failed."""
    return alarm(
        "bronze-failures",
        "Failed",
        says=f"More than {MAX_FAILED:.0%} of a day's Bronze runs failed.",
        runbook="bronze-failed",
        dimensions={"Tier": Tier.BRONZE},
        stat="Average",
        period=DAY,
        above=MAX_FAILED,
    )


def latencies() -> Iterator[Json]:
    """A tier's p95 over its target in three of five minutes."""
    for tier, (name, most) in LATENCY_MS.items():
        yield alarm(
            f"latency-{tier}",
            name,
            says=f"{tier} answers too slowly: p95 of {name} over {most:g} ms.",
            runbook="serving-degraded",
            dimensions={"Tier": tier},
            stat="p95",
            period=MINUTE,
            periods=5,
            points=3,
            above=most,
        )


def unanswered() -> Json:
    """Too many requests without an answer in three of five minutes."""
    return alarm(
        "requests-unanswered",
        "Unanswered",
        says=f"More than {MAX_UNANSWERED:.0%} of the requests got no answer.",
        runbook="serving-degraded",
        stat="Average",
        period=MINUTE,
        periods=5,
        points=3,
        above=MAX_UNANSWERED,
    )


def traces_lost() -> Json:
    """An answer whose trace could not be written is an answer that nothing can learn from."""
    return alarm(
        "traces-lost",
        "TraceLost",
        says="The router cannot write its traces: its disk is full, or gone.",
        runbook="serving-degraded",
        stat="Sum",
        period=5 * MINUTE,
        above=0,
    )


def drifts() -> Iterator[Json]:
    """What a tier is asked, or how well it answers, is far from what it was registered with."""
    for tier in Tier:
        for name, what in {"InputDriftPSI": "is asked", "RewardDriftPSI": "scores"}.items():
            yield alarm(
                f"{name.removesuffix('DriftPSI').lower()}-drift-{tier}",
                name,
                says=f"What {tier} {what} is no longer what it was registered with: PSI over {BLOCK:g}.",
                runbook="model-drifted",
                dimensions={"Tier": tier},
                stat="Maximum",
                period=DAY,
                above=BLOCK,
            )


def alarm(
    name: str,
    metric: str,
    *,
    says: str,
    runbook: str,
    stat: str,
    period: int,
    above: float,
    dimensions: Mapping[str, str] | None = None,
    periods: int = 1,
    points: int = 1,
) -> Json:
    """An alarm on one metric, quiet where there is no data; `points` of `periods` have to be `above`.

    Raises ValueError where the catalogue's metric is not published under these dimensions.
    """
    dimensions = dimensions or {}
    found = OWN[metric]
    if tuple(dimensions) not in found.dimensions:
        raise ValueError(f"alarm {name}: {metric} has no dimensions {tuple(dimensions)}, but {found.dimensions}")
    return {
        "AlarmName": name,
        "AlarmDescription": described(says, runbook),
        "MetricName": found.name,
        "Dimensions": [{"Name": key, "Value": str(value)} for key, value in dimensions.items()],
        "ExtendedStatistic" if stat.startswith("p") else "Statistic": stat,
        "Period": period,
        "EvaluationPeriods": periods,
        "DatapointsToAlarm": points,
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": above,
        "TreatMissingData": "notBreaching",
    }


def described(says: str, runbook: str) -> str:
    return f"{says} Runbook: docs/recovery/{runbook}.md"

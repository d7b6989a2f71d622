"""CloudWatch's documented rules of alarm evaluation, for requests of PutMetricAlarm and recorded series.

Windows slide, so that the newest period ends now. More periods are looked at than an alarm asks for (the evaluation range);
how many more is not documented, so it is given. Missing data: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/
alarms-and-missing-data.html, whose two tables are tests here.
"""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], Sequence[tuple[float, float]]]
"""(second, value) by metric's name and dimensions."""

COMPARE = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
STATISTICS = {"Sum": sum, "Average": lambda v: sum(v) / len(v), "Maximum": max, "Minimum": min, "SampleCount": len}
RANGE = 2
"""Periods beyond the alarm's own, as in the documentation's examples."""


def state(alarm: Json, series: Series, now: float, before: str = "OK", more: int = RANGE) -> str:
    """The alarm's state at a moment, given the one before."""
    breaching = [
        None if value is None else COMPARE[alarm["ComparisonOperator"]](value, alarm["Threshold"])
        for value in points(alarm, series, now, alarm["EvaluationPeriods"] + more)
    ]
    return judge(breaching, alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"], alarm["TreatMissingData"], before)


def judge(breaching: Sequence[bool | None], n: int, m: int, missing: str, before: str = "OK") -> str:
    """The state by the evaluation range's data points, oldest first; None for a missing one."""
    real = [point for point in breaching if point is not None]
    if len(real) >= n:
        return "ALARM" if sum(real[-n:]) >= m else "OK"
    bad, lacking = sum(real), n - len(real)
    if missing == "breaching":
        return "ALARM" if bad + lacking >= m else "OK"
    if bad >= m:
        return "ALARM"
    if missing == "notBreaching":
        return "OK"
    if missing == "ignore":
        return "OK" if False in real else before
    if not real:
        return "INSUFFICIENT_DATA"
    # What would be premature is not: the oldest breach is as old as m, and nothing newer speaks against it.
    oldest = len(breaching) - breaching.index(True) if bad else 0
    return "ALARM" if False not in real and oldest >= m else "OK"


def points(alarm: Json, series: Series, now: float, count: int) -> list[float | None]:
    """The newest `count` data points of what the alarm watches, oldest first."""
    if "Metrics" not in alarm:
        stat = alarm.get("Statistic") or alarm["ExtendedStatistic"]
        return aggregated(alarm, alarm["Period"], stat, series, now, count)
    found: dict[str, list[float | None]] = {}
    for query in alarm["Metrics"]:
        if "MetricStat" in query:
            asked = query["MetricStat"]
            found[query["Id"]] = aggregated(asked["Metric"], asked["Period"], asked["Stat"], series, now, count)
        else:
            filled = re.fullmatch(r"FILL\((\w+), ([\d.]+)\)", query["Expression"])
            assert filled, f"{query['Expression']}: no expression that this knows"
            values = found[filled[1]]
            # There is nothing to fill where a metric has no data at all.
            empty = all(value is None for value in values)
            found[query["Id"]] = values if empty else [float(filled[2]) if v is None else v for v in values]
    (shown,) = (query["Id"] for query in alarm["Metrics"] if query["ReturnData"])
    return found[shown]


def aggregated(metric: Json, period: int, stat: str, series: Series, now: float, count: int) -> list[float | None]:
    key = metric["MetricName"], tuple((d["Name"], d["Value"]) for d in metric.get("Dimensions", ()))
    buckets: list[list[float]] = [[] for _ in range(count)]
    for second, value in series.get(key, ()):
        age = int((now - second) // period)
        if 0 <= age < count and second <= now:
            buckets[count - 1 - age].append(value)
    return [statistic(stat, values) if values else None for values in buckets]


def statistic(name: str, values: Sequence[float]) -> float:
    if name in STATISTICS:
        return float(STATISTICS[name](values))
    share = float(name.removeprefix("p")) / 100
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

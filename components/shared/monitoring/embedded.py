"""Metrics within a log line: CloudWatch Logs takes them out of JSON lines in the embedded metric format.

A container that logs to CloudWatch needs no agent and no right to publish. Format: docs.aws.amazon.com/AmazonCloudWatch/
latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
"""

from collections import defaultdict
from collections.abc import Mapping

from pydantic import JsonValue

from components.shared.monitoring.catalogue import OWN


def embedded(
    namespace: str, values: Mapping[str, float], dimensions: Mapping[str, str], seconds: float
) -> dict[str, JsonValue]:
    """Members to add to a log line, so that it carries `values`, metrics of the catalogue by name, as of `seconds` UTC.

    A metric goes under each of its sets of dimensions that `dimensions` fills. Raises KeyError for a metric that is not
    in the catalogue.
    """
    by_sets: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for name in values:
        sets = tuple(names for names in OWN[name].dimensions if set(names) <= dimensions.keys())
        if sets:
            by_sets[sets].append(name)
    directives: list[JsonValue] = [
        {
            "Namespace": namespace,
            "Dimensions": [list(item) for item in sets],
            "Metrics": [{"Name": name, "Unit": OWN[name].unit} for name in names],
        }
        for sets, names in by_sets.items()
    ]
    kept = {name: values[name] for names in by_sets.values() for name in names}
    return {"_aws": {"Timestamp": round(1000 * seconds), "CloudWatchMetrics": directives}, **dimensions, **kept}

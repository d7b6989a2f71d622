"""The night's data as one page to read and one file to query. The page loads nothing: styles and drawings are in it."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.data_validation.findings import Findings
from components.shared.contracts.records import Rejected
from components.shared.monitoring.stability import Histogram
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.artifacts import write_text

TEMPLATE = Path(__file__).with_name("report.html.j2")
WITHHELD = {"personal_data", "secret"}
"""Rules whose records stay in the quarantine alone: a report is read by many."""
SHOWN = 1500
"""Characters of a refused record that the page shows."""
ROWS = 20
"""Names that a table of the page shows; the rest is in the JSON."""


def write_report(folder: Path, findings: Findings) -> None:
    """Write report.html and validation.json, and a sample line for each refused record shown."""
    tracker = PerformanceTracker(folder)
    for rejected in findings.samples:
        tracker.sample(0, rule=rejected.rule, reason=rejected.reason, record=shown(rejected))
    write_text(folder / "validation.json", json.dumps(as_json(findings), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.html", as_html(findings))


def shown(rejected: Rejected) -> Any:
    """The record as a report may show it."""
    return "withheld: see quarantine.jsonl" if rejected.rule in WITHHELD else rejected.record


def as_json(findings: Findings) -> dict[str, Any]:
    return {
        "model_type": findings.model_type,
        **findings.counts,
        "warnings": findings.warnings,
        "drift": {name: moved.model_dump() for name, moved in findings.drift.items()},
        "profile": findings.profile.model_dump(mode="json"),
        "samples": [{"rule": r.rule, "reason": r.reason, "record": shown(r)} for r in findings.samples],
    }


def as_html(findings: Findings) -> str:
    """One page; everything that came from a record is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        findings=findings,
        counts=findings.counts,
        tables={name: bars(findings.counts[name]) for name in ("rules", "carried", "classes", "sources")},
        histograms=[
            {"name": name.replace("_", " "), "found": found, "bars": columns(found), "moved": findings.drift.get(name)}
            for name, found in findings.profile.numbers.items()
        ],
        drift_of_names={name: findings.drift[name] for name in findings.profile.names if name in findings.drift},
        samples=[(r.rule, r.reason, _excerpt(shown(r))) for r in findings.samples],
    )


def bars(table: dict[str, int]) -> dict[str, Any]:
    """Names with counts, most first, and the width of each bar in percent of the widest."""
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    widest = max(table.values(), default=1)
    return {
        "rows": [(name, count, 100 * count / widest) for name, count in ranked[:ROWS]],
        "more": len(ranked) - ROWS if len(ranked) > ROWS else 0,
    }


def columns(histogram: Histogram) -> Sequence[dict[str, Any]]:
    """The columns of a drawing 100 wide and 40 high: areas are counts, since deciles are equally full by nature."""
    bounds = [histogram.low, *histogram.edges, histogram.high]
    spread = (histogram.high - histogram.low) or 1.0
    # A value that a bin has to itself has no width: it is drawn half as wide as bins are on average.
    widths = [max((b - a) / spread, 0.5 / len(histogram.counts)) for a, b in itertools.pairwise(bounds)]
    scale = 100 / sum(widths)
    heights = [count / width for count, width in zip(histogram.counts, widths, strict=True)]
    highest = max(heights) or 1.0
    starts = [0.0, *itertools.accumulate(widths)]
    return [
        {"x": start * scale, "width": width * scale, "height": 40 * height / highest, "count": count, "to": bound}
        for start, width, height, count, bound in zip(
            starts[:-1], widths, heights, histogram.counts, bounds[1:], strict=True
        )
    ]


def _excerpt(record: Any) -> str:
    text = record if isinstance(record, str) else json.dumps(record, indent=1, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text):,} characters)"

"""What the report says of weaknesses: the evaluation's own finds, and how failures went over the nights before."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.contracts.weakness import ANSWERS, WEAKNESSES, Evaluated, WeaknessReport
from components.shared.storage.jsonl import read_jsonl
from pipelines.engines.run_folder import RunFolder, RunState, all_runs
from pipelines.report.drawings import curve_svg
from pipelines.report.facts import Curve
from pipelines.results import FINISHED

ROLE = "candidate"
MOST = 6
"""Finds of each kind shown; the rest is in the evaluation's files."""
NIGHTS = 30
"""Nights that a trend goes back."""


def weaknesses(folder: RunFolder) -> dict[str, Any] | None:
    """The finds of the run's evaluation, with trends; none where it has no such file."""
    path = next((p for p in _evaluations(folder) if (p / WEAKNESSES).is_file()), None)
    if path is None:
        return None
    found = WeaknessReport.model_validate_json((path / WEAKNESSES).read_bytes())
    return {
        "slices": found.weaknesses[:MOST],
        "more": max(0, len(found.weaknesses) - MOST),
        "modes": found.modes[:MOST],
        "degraded": found.degraded[:MOST],
        "trends": list(_trends(folder)),
    }


def _evaluations(folder: RunFolder) -> Iterator[Path]:
    """The reports of the run's finished evaluations."""
    for task in folder.state.tasks.values():
        if task.stage == "evaluation" and task.status in FINISHED:
            yield folder.runs / task.outputs["report"]


def _trends(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Failures that rose or fell over this night and those before it; an evaluation that was cached counts once."""
    earlier = [run for run in all_runs(folder.runs) if _same_kind(run.state, folder.state)]
    paths = [p for run in reversed(earlier) for p in _evaluations(run) if (p / ANSWERS).is_file()]
    nights = [list(read_jsonl(path / ANSWERS, Evaluated)) for path in dict.fromkeys(paths)][-NIGHTS:]
    if len(nights) < 2 or importlib.util.find_spec("scipy") is None:
        return
    from components.shared.performance.failure_trends import trends

    for trend in trends(nights, ROLE):
        if trend.direction != "none":
            curve = Curve(name=trend.name, steps=tuple(range(1, len(nights) + 1)), values=trend.rates)
            yield {"trend": trend, "svg": curve_svg(curve, unit="night")}


def _same_kind(other: RunState, state: RunState) -> bool:
    keys = ("model_type", "world")
    return (
        other.started <= state.started
        and (other.dag, other.tier) == (state.dag, state.tier)
        and all(other.parameters.get(key) == state.parameters.get(key) for key in keys)
    )

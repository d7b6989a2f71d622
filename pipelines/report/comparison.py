"""Two runs side by side: where they part, what was set differently, and what that did to scores and time.

The runs may have been measured on different scenarios, so their intervals are set side by side and no gain is claimed;
gains, which are paired by scenario, are in each run's own evaluation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue
from rich import box
from rich.console import Console, Group
from rich.table import Table

from pipelines.display import clock
from pipelines.engines.run_folder import RunFolder
from pipelines.report.facts import RunFacts, read_run
from pipelines.results import interval

Pair = tuple[Any, Any]


def compare(a: RunFolder, b: RunFolder) -> dict[str, Any]:
    """Everything in which two runs differ, as data; what only one of them has is None on the other side."""
    left, right = read_run(a), read_run(b)
    return {
        "runs": [left.state.run_id, right.state.run_id],
        "outcome": (left.status, right.status),
        "parts_at": parting(left, right),
        "settings": differences(settings(left), settings(right)),
        "scores": paired(scores(left), scores(right)),
        "margins": paired(margins(left), margins(right)),
        "seconds": paired(seconds(left), seconds(right)),
    }


def parting(a: RunFacts, b: RunFacts) -> str | None:
    """The first task, in the order in which data flows, that put out something else; none where all are equal."""
    other = {task.name: dict(task.outputs) for task in b.tasks}
    return next((task.name for task in a.tasks if dict(task.outputs) != other.get(task.name)), None)


def settings(run: RunFacts) -> dict[str, JsonValue]:
    """What could be set, by dotted name: the pipeline's parameters, and each task's configuration."""
    found = {key: value for key, value in run.state.parameters.items() if not key.endswith("_uri")}
    found |= {"environment": run.state.environment, "tier": run.state.tier}
    for task in run.tasks:
        found |= dict(flat(task.config, task.name))
    return found


def flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    """The leaves of nested settings."""
    for key, inner in value.items():
        name = f"{prefix}.{key}"
        if isinstance(inner, dict) and inner:
            yield from flat(inner, name)
        else:
            yield name, inner


def scores(run: RunFacts) -> dict[str, Mapping[str, float]]:
    """Greedy held-out scores by task and role."""
    return {
        f"{task.name} {role}": found["greedy"]
        for task in run.tasks
        for role, found in task.details.get("policies", {}).items()
    }


def margins(run: RunFacts) -> dict[str, float]:
    return {task.name: task.details["gate"]["margin"] for task in run.tasks if "gate" in task.details}


def seconds(run: RunFacts) -> dict[str, float]:
    return {task.name: task.state.seconds for task in run.tasks if task.state.seconds is not None}


def paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    return {name: (a.get(name), b.get(name)) for name in {**a, **b}}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    return {name: pair for name, pair in paired(a, b).items() if pair[0] != pair[1]}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a comparison."""
    a, b = found["runs"]
    console.print(f"[bold]a[/] {a}: {found['outcome'][0]}\n[bold]b[/] {b}: {found['outcome'][1]}", highlight=False)
    parts = found["parts_at"]
    said = (
        f"They part at [bold]{parts}[/]: what is before it is the same, byte for byte." if parts else "They are equal."
    )
    console.print(said, highlight=False)
    tables = [
        _table("Set differently", found["settings"], str),
        _table(r"Held-out scores, greedy: mean \[interval]", found["scores"], interval, apart),
        _table("Gate margins", found["margins"], lambda margin: f"{margin:+.4f}"),
        _table("Stages", found["seconds"], clock),
    ]
    console.print(Group(*(table for table in tables if table.row_count)))


def apart(a: Mapping[str, float], b: Mapping[str, float]) -> str:
    """What may be said of two intervals that are not paired."""
    if b["low"] > a["high"]:
        return "[green]b is higher[/]"
    return "[yellow]a is higher[/]" if a["low"] > b["high"] else "overlap"


def _table(title: str, rows: Mapping[str, Pair], text: Any, verdict: Any = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    for column in ("a", "b", *([""] if verdict else [])):
        table.add_column(column, justify="right", overflow="fold")
    for name, (a, b) in rows.items():
        cells = ["" if value is None else text(value) for value in (a, b)]
        if verdict:
            cells.append(verdict(a, b) if a is not None and b is not None else "")
        table.add_row(name, *cells)
    return table

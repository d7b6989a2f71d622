"""What a finished run has to say: the scores with their intervals, the gates, the time of each stage, and what next.

Every number is read from the reports that the stages wrote.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.table import Table

from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from pipelines.display import clock
from pipelines.engines.run_folder import RunFolder, RunState, TaskState, TaskStatus

FINISHED = (TaskStatus.DONE, TaskStatus.CACHED)
HEADLINES = {
    Outcome.REGISTERED: "registered: the accepted policy is in the registry",
    Outcome.REFUSED: "refused: the gate kept the champion",
    Outcome.STALE: "stale: another champion came while this run was at work",
    Outcome.FAILED: "failed",
}


def reports(folder: RunFolder) -> Iterator[tuple[str, TaskState, Report]]:
    """The report of every finished task, in the order in which data flows."""
    for name, task in folder.state.tasks.items():
        if task.status in FINISHED:
            path = folder.runs / task.outputs["report"] / "report.json"
            yield name, task, Report.model_validate_json(path.read_bytes())


def results(folder: RunFolder) -> dict[str, JsonValue]:
    """The scores and gates of a run as data, by the task that measured them."""
    return {
        name: {"policies": report.details["policies"], "gate": report.details["gate"]}
        for name, _, report in reports(folder)
        if "policies" in report.details and "gate" in report.details
    }


def show(folder: RunFolder, console: Console) -> None:
    """Print the run's tables and where to look next."""
    measured = results(folder)
    if measured:
        console.print(policies_table(measured), gates_table(measured))
    console.print(stages_table(folder.state))
    console.print(f"[bold]{folder.state.run_id}[/] {headline(folder.state)}", highlight=False)
    for what, command in next_steps(folder):
        console.print(f"  {what:<14} {command}", highlight=False, soft_wrap=True, markup=False)


def policies_table(measured: Mapping[str, Any]) -> Table:
    """Mean held-out scores with their intervals, a row a policy."""
    table = Table(title=r"Held-out scores: mean \[interval]", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "greedy", "sampled", "all right"):
        table.add_column(column, justify="right" if column else "left")
    for task, found in measured.items():
        sizes = {str(scores["greedy"]["n"]) for scores in found["policies"].values()}
        table.add_row(f"[bold]{task}[/]", f"n = {', '.join(sorted(sizes))}")
        for role, scores in found["policies"].items():
            cells = [interval(scores[kind]) for kind in ("greedy", "sampled", "correct")]
            table.add_row(f"  {role}", *cells)
    return table


def gates_table(measured: Mapping[str, Any]) -> Table:
    """What each gate compared."""
    table = Table(title="Gates", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "value", "bound", "margin"):
        table.add_column(column, justify="right" if column else "left")
    for task, found in measured.items():
        table.add_row(
            f"[bold]{task}[/] " + ("[green]accepted[/]" if found["gate"]["accepted"] else "[yellow]refused[/]")
        )
        for name, criterion in found["gate"]["criteria"].items():
            table.add_row(f"  {name}", *(f"{criterion[key]:.4f}" for key in ("value", "bound", "margin")))
    return table


def stages_table(state: RunState) -> Table:
    """Time, processor time, memory and cost of each stage; this machine's time costs nothing."""
    table = Table(title="Stages", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("task", "status", "time", "CPU", "peak memory", "cost"):
        table.add_column(column, justify="left" if column in ("task", "status") else "right")
    for name, task in state.tasks.items():
        if task.seconds is None:
            table.add_row(name, task.status, "", "", "", "")
            continue
        cpu = "" if task.cpu_seconds is None else clock(task.cpu_seconds)
        peak = "" if task.peak_mib is None else f"{task.peak_mib:.0f} MiB"
        usage = [clock(task.seconds), cpu, peak]
        spent = "0 (cached)" if task.status == TaskStatus.CACHED else "0"
        table.add_row(name, task.status, *usage, spent)
    return table


def interval(scores: Mapping[str, float]) -> str:
    """A mean with its interval."""
    return rf"{scores['mean']:.3f} \[{scores['low']:.3f}, {scores['high']:.3f}]"


def headline(state: RunState) -> str:
    """How the run stands, in one line."""
    if state.outcome is None:
        return "has not come to its end"
    failed = next(((name, task.error) for name, task in state.tasks.items() if task.status == TaskStatus.FAILED), None)
    if failed:
        return f"failed: {failed[0]}: {failed[1]}"
    wall = f" in {clock((state.finished - state.started).total_seconds())}" if state.finished else ""
    return f"{HEADLINES[state.outcome]}{wall}"


def next_steps(folder: RunFolder) -> list[tuple[str, str]]:
    """Where to look and what to type next."""
    state = folder.state
    failed = next((name for name, task in state.tasks.items() if task.status == TaskStatus.FAILED), None)
    if failed:
        return [
            ("read the log", f"srl-rlvr logs {state.run_id} {failed}"),
            ("go on", f"srl-rlvr run --resume {state.run_id}"),
        ]
    return [
        ("report", f"srl-rlvr report {state.run_id}"),
        ("artifacts", str(shortest(folder.path / "artifacts"))),
        ("logs", str(shortest(folder.path / "logs"))),
        ("curves", f"mlflow ui --backend-store-uri {state.tracking_uri}"),
        ("why cached", f"srl-rlvr run {state.dag} --env {state.environment} --explain-cache"),
    ]


def shortest(path: Path) -> Path:
    """The path as a person would type it here."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path

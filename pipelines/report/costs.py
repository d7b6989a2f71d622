"""What a run cost: the seconds that its jobs were billed at configs/prices.yaml, and what its teacher took.

This machine costs nothing. A Spot job is billed for fewer seconds than it worked; the difference is what Spot saved.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.shared.contracts.errors import PipelineError
from components.shared.performance.model_registry import DIGEST, Registry
from components.shared.selection.prices import Prices, load_prices
from pipelines.engines.run_folder import RunFolder, RunState, TaskState, TaskStatus
from pipelines.results import reports

HOUR = 3600
REMOTE = "sagemaker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """The money of some tasks."""

    usd: float
    """Billed machine time, and the teacher."""
    on_demand_usd: float
    """The same machine time without Spot, and the teacher."""
    teacher_usd: float
    seconds: float
    """Wall time of the tasks."""
    unknown: tuple[str, ...]
    """Tasks whose machine or its price nobody recorded: what they cost is not in the sums."""


def spent(folder: RunFolder, prices: Prices, names: Iterable[str] | None = None) -> Spent:
    """What the tasks `names` (by default all) of a run cost; a cached task cost an earlier run."""
    teacher = {name: report.metrics.get("usd", 0.0) for name, _, report in reports(folder)}
    tasks = {
        name: task
        for name, task in folder.state.tasks.items()
        if task.seconds is not None and task.status != TaskStatus.CACHED and (names is None or name in names)
    }
    machines = {name: machine_usd(folder.state, task, prices) for name, task in tasks.items()}
    known = [usd for usd in machines.values() if usd]
    asked = sum(teacher.get(name, 0.0) for name in tasks)
    return Spent(
        usd=sum(billed for billed, _ in known) + asked,
        on_demand_usd=sum(worked for _, worked in known) + asked,
        teacher_usd=asked,
        seconds=sum(task.seconds or 0.0 for task in tasks.values()),
        unknown=tuple(name for name, usd in machines.items() if usd is None),
    )


def machine_usd(state: RunState, task: TaskState, prices: Prices) -> tuple[float, float] | None:
    """What a task's machines were billed, and what they would have been on demand; none where that is not known."""
    if state.engine != REMOTE:
        return 0.0, 0.0
    if task.instance not in prices.instances or task.billed_seconds is None or task.machine_seconds is None:
        return None
    hourly = prices.of(str(task.instance)).usd_per_hour * task.instance_count
    return hourly * task.billed_seconds / HOUR, hourly * task.machine_seconds / HOUR


def behind(tasks: Mapping[str, TaskState], name: str) -> set[str]:
    """A task and all that it waited for, however far back."""
    found, left = set(), [name]
    while left:
        task = left.pop()
        if task in tasks and task not in found:
            found.add(task)
            left.extend(tasks[task].after)
    return found


def record_costs(folder: RunFolder, registry: Registry) -> None:
    """Tell the registry what each version that this run registered has cost: its own task and all before it.

    A registry that does not answer now loses nothing: the run's folder holds the same numbers.
    """
    prices = load_prices()
    for name, task, report in reports(folder):
        if task.stage != "registration" or task.status != TaskStatus.DONE or DIGEST not in report.details:
            continue
        found = spent(folder, prices, behind(folder.state.tasks, name))
        tags = {"cost_seconds": f"{found.seconds:.0f}"}
        if not found.unknown:
            tags |= {"cost_usd": f"{found.usd:.4f}", "cost_prices_of": f"{prices.as_of}"}
        with contextlib.suppress(PipelineError):
            if version := registry.find(str(report.details["name"]), str(report.details[DIGEST])):
                registry.annotate(version, tags)

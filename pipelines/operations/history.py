"""What earlier runs measured, for the next one's plan: how long each step takes, and what a gain in score has cost.

Runs are those that this machine knows (`srl-rlvr runs`): only executions on SageMaker tell anything of the plan's machines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from components.shared.contracts.records import Tier
from components.shared.selection.prices import Prices
from pipelines.engines.engine import EngineName
from pipelines.engines.run_folder import RunFolder, TaskStatus, all_runs
from pipelines.operations.costs import HOUR, JobRequest
from pipelines.results import reports

RECENT = 5
"""Runs of the same kind that count, the latest."""
ENOUGH = 3
"""Measured runs without which nothing is skipped."""
POINT = 0.01
"""One hundredth of held-out score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The latest finished runs of one DAG, tier, environment and model type on SageMaker."""

    hours: Mapping[str, tuple[float, ...]]
    """Wall time of each step's jobs, by step, cached ones left out."""
    usd_and_gain: tuple[tuple[float, float], ...]
    """What each run cost by its jobs' wall time on demand, and what it gained on its champion: mean held-out score."""

    def usual_hours(self, step: str) -> tuple[float, int] | None:
        """Median hours of a step and of how many runs; none where it was never measured."""
        found = self.hours.get(step, ())
        return (median(found), len(found)) if found else None

    @property
    def usd_per_point(self) -> float | None:
        """What a hundredth of score has cost; none without enough runs, infinite where they gained nothing together."""
        if len(self.usd_and_gain) < ENOUGH:
            return None
        usd, gain = (sum(values) for values in zip(*self.usd_and_gain, strict=True))
        return usd / (gain / POINT) if gain > 0 else float("inf")


def history(
    runs: Path, dag: str, tier: Tier, environment: str, model_type: str, jobs: Mapping[str, JobRequest], prices: Prices
) -> History:
    """Read it from the folder of runs; `jobs` are the machines that the hours are priced at, by step."""

    def alike(folder: RunFolder) -> bool:
        state = folder.state
        return (state.engine, state.dag, state.environment) == (EngineName.SAGEMAKER, dag, environment) and (
            state.outcome not in (None, "failed")
            and (dag == "nightly" or state.tier == tier)
            and state.parameters.get("model_type", model_type) == model_type
        )

    recent = [folder for folder in all_runs(runs) if alike(folder)][:RECENT]
    hours: dict[str, tuple[float, ...]] = {}
    measured = []
    for folder in recent:
        usd = 0.0
        for task, state in folder.state.tasks.items():
            step = task.replace("_", "-")
            if state.status == TaskStatus.DONE and state.seconds is not None and step in jobs:
                hours[step] = (*hours.get(step, ()), state.seconds / HOUR)
                usd += jobs[step].usd(prices, state.seconds / HOUR)
        gains = [gain for *_, report in reports(folder) if (gain := gain_of(report.details)) is not None]
        if gains and usd > 0:
            measured.append((usd, sum(gains)))
    return History(hours=hours, usd_and_gain=tuple(measured))


def gain_of(details: Mapping[str, object]) -> float | None:
    """What an evaluation brought: the candidate's gain on the champion, nothing where its gate kept the champion."""
    gains = details.get("gains")
    champion = gains.get("champion") if isinstance(gains, dict) else None
    if not isinstance(champion, dict):
        return None
    return float(champion["mean"]) if details.get("accepted") == "candidate" else 0.0

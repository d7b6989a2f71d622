"""The morning report: what a night ran, what it changed and cost, what waits for a person, and what is stale or failed.

A night is told by the runs of this machine's folder, or by the report that the state machine of an account keeps in
s3://BUCKET/nights/NIGHT/ATTEMPT/report.json; the two make one page.

    srl-rlvr report --nightly [--night 2026-01-31] [--env prod]
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.selection.prices import Prices, load_prices
from components.shared.storage.artifacts import write_text
from components.shared.storage.places import get_text, names
from pipelines.compilers import collection
from pipelines.compilers.module_jobs import machine_of_jobs
from pipelines.configuration import Settings, load_tier
from pipelines.engines.run_folder import RunFolder, all_runs
from pipelines.report.costs import spent
from pipelines.report.facts import read_run
from pipelines.report.page import changes, html, waiting
from pipelines.results import headline, next_steps

TEMPLATE = Path(__file__).with_name("night.html.j2")
NIGHT = re.compile(r"\d{4}-\d\d-\d\d")
WORST = ("failed", "interrupted", "stale", "running", "registered", "refused")
"""Outcomes by what a night is named after, the first that any of its runs has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NightRun:
    """One run of a night."""

    name: str
    model_type: str
    tier: str
    outcome: str
    detail: str
    seconds: float | None
    usd: float | None
    """Billed, or estimated where `estimated`; none where it is not known."""
    estimated: bool = False
    stale: str | None = None
    """Why what it learnt from, or was compared with, was out of date."""
    commands: tuple[tuple[str, str], ...] = ()
    """What to do next, and what to type for it."""

    @property
    def mark(self) -> str:
        return {"registered": "good", "failed": "bad"}.get(self.outcome, "held")


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """One night, wherever it ran."""

    night: str
    attempt: int | None
    source: str
    """Where it is told from."""
    outcome: str
    runs: tuple[NightRun, ...]
    changed: tuple[str, ...]
    waiting: tuple[tuple[str, str], ...]
    """What waits for a person, and what to type for it."""
    alerts: tuple[str, ...]

    @property
    def mark(self) -> str:
        return {"registered": "good", "failed": "bad"}.get(self.outcome, "held")

    @property
    def usd(self) -> float:
        return sum(run.usd or 0.0 for run in self.runs)

    @property
    def unpriced(self) -> int:
        return sum(run.usd is None for run in self.runs)

    @property
    def troubled(self) -> list[NightRun]:
        """Runs that failed, stopped half-way or went by something stale."""
        return [run for run in self.runs if run.outcome in ("failed", "interrupted", "stale") or run.stale]


def local_night(runs: Path, night: str | None) -> Night:
    """The runs of this machine that began on `night`, by default the latest. Raises UsageError where there is none."""
    by_night: dict[str, list[RunFolder]] = {}
    for folder in all_runs(runs):
        by_night.setdefault(night_of(folder), []).append(folder)
    if not by_night:
        raise UsageError(f"no run in {runs}: srl-rlvr run, or --env for the nights of an account")
    chosen = night or max(by_night)
    if chosen not in by_night:
        raise unknown("night", chosen, by_night)
    prices = load_prices()
    folders = sorted(by_night[chosen], key=lambda folder: folder.state.started)
    facts = [read_run(folder) for folder in folders]
    found = [_local_run(folder, prices) for folder in folders]
    return Night(
        night=chosen,
        attempt=None,
        source=f"{len(found)} run{'s' if len(found) > 1 else ''} of this machine",
        outcome=outcome_of([run.outcome for run in found]),
        runs=tuple(found),
        changed=tuple(f"{run.state.run_id}: {line}" for run in facts for line in changes(run)),
        waiting=tuple(
            (line.partition(":")[0], f"srl-rlvr promote {line.partition(' ')[0]}")
            for run in facts
            for line in waiting(run)
        ),
        alerts=(),
    )


def night_of(folder: RunFolder) -> str:
    """The night that a run was started for; the day on which it began, in UTC, where it was for none."""
    night = str(folder.state.parameters.get("night", ""))
    return night if NIGHT.fullmatch(night) else f"{folder.state.started:%Y-%m-%d}"


def _local_run(folder: RunFolder, prices: Prices) -> NightRun:
    state, cost = folder.state, spent(folder, prices)
    outcome = folder.status
    # How long it took has a column of its own.
    said = headline(state.model_copy(update={"finished": None})).partition(": ")
    after = {"failed": next_steps(folder), "interrupted": [("go on", f"srl-rlvr run --resume {state.run_id}")]}
    return NightRun(
        name=state.run_id,
        model_type=str(state.parameters.get("model_type", "")),
        tier="all tiers" if state.dag == "nightly" else state.tier,
        outcome=outcome,
        detail=said[2] or said[0],
        seconds=(state.finished - state.started).total_seconds() if state.finished else None,
        usd=None if cost.unknown else cost.usd,
        stale="another champion came while it was at work" if outcome == "stale" else None,
        commands=tuple(after.get(outcome, [("read", f"srl-rlvr report {state.run_id}")])),
    )


def remote_night(settings: Settings, night: str | None) -> Night:
    """What the state machine of an environment's account kept of a night, by default the latest that was reported.

    Raises UsageError for an environment without an account, PipelineError where no such report is there.
    """
    account = settings.environment.sagemaker
    if account is None:
        raise UsageError(f"environment {settings.name!r} has no AWS account: leave --env out, or pass dev or prod")
    place = f"{account.root}/nights"
    reports = sorted(name for name in names(place) if re.fullmatch(r"\d{4}-\d\d-\d\d/\d/report\.json", name))
    mine = [name for name in reports if night is None or name.startswith(f"{night}/")]
    if not mine:
        raise PipelineError(f"no report of {night or 'any night'} under {place}: see the execution in Step Functions")
    uri = f"{place}/{mine[-1]}"
    try:
        return told(json.loads(get_text(uri)), uri, settings.name, load_prices())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{uri} is no report of a night ({error!r}): see the execution in Step Functions"
        ) from error


def told(report: Mapping[str, Any], source: str, environment: str, prices: Prices) -> Night:
    """A night as its state machine wrote it down."""
    found = [_remote_run(run, environment, prices) for run in report["runs"]]
    fault = [report["fault"]] if report.get("fault") else []
    return Night(
        night=report["night"],
        attempt=report["attempt"],
        source=source,
        outcome=report["outcome"],
        runs=tuple(found),
        changed=tuple(f"{package_name(package)} serves now" for package in report["promoted"]),
        waiting=tuple(
            (package_name(package), f"srl-rlvr promote {package} --env {environment}") for package in report["waiting"]
        ),
        alerts=(*fault, *report["alerts"]),
    )


def _remote_run(run: Mapping[str, Any], environment: str, prices: Prices) -> NightRun:
    hours, teacher = run.get("hours"), run.get("teacher") or {}
    hourly = _usd_per_hour(run["dag"], Tier(run["tier"]), prices)
    failed = run["outcome"] == "failed" and run.get("execution")
    return NightRun(
        name=run["dag"],
        model_type=run["model_type"],
        tier=run["tier"],
        outcome=run["outcome"],
        detail=f"{run['detail']}{' (on demand)' if run.get('on_demand') else ''}",
        seconds=3600 * hours if hours is not None else None,
        usd=hours * hourly if hours is not None and hourly is not None else None,
        estimated=True,
        stale=teacher.get("reason") if teacher.get("stale") else None,
        commands=(("why", f"srl-rlvr triage {run['execution']} --env {environment}"),) if failed else (),
    )


def _usd_per_hour(dag: str, tier: Tier, prices: Prices) -> float | None:
    """What a run costs at most while it runs: the tier's training machines, or those of the collection's jobs; none where
    nobody priced them."""
    if dag == collection.STEM:
        machine, count = machine_of_jobs(), len(collection.JOBS)
    else:
        machine = load_tier(tier).jobs.training
        count = machine.instance_count
    price = prices.instances.get(machine.instance_type)
    return price.usd_per_hour * count if price else None


def package_name(arn: str) -> str:
    """GROUP version N, of a package's ARN."""
    group, _, version = arn.partition("model-package/")[2].rpartition("/")
    return f"{group} version {version}" if group else arn


def outcome_of(outcomes: Sequence[str]) -> str:
    """What a night is named after: the worst of its runs."""
    return next((outcome for outcome in WORST if outcome in outcomes), "refused")


def write_night(found: Night, target: Path) -> Path:
    """Write the night's page; returns where it lies."""
    write_text(target, html(TEMPLATE, night=found))
    return target

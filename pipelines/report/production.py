"""The production validation report: what serves, measured by what it served.

A/B outcomes are a rollout's own evidence, with intervals clustered by session. Latency is that of the served requests.
Savings are differences of bills: Spot, of the recorded jobs; distilled tiers and routing, of the router's decisions, each
priced by the selection table that it was made under:

    all on the largest tier - all on the tier of an average prompt = what distilled tiers save
    all on that tier        - what was paid                        = what routing saves; negative where it bought quality

    srl-rlvr report --production [--serving DIR|s3://...] [--decisions FILE]
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import Tier, Trace
from components.shared.contracts.selection import Benchmark, SelectionTable
from components.shared.selection.prices import Prices, load_prices
from components.shared.serving.canary import WORSE, Arm, CanaryState, Metric
from components.shared.serving.choice import CHARACTERS_A_TOKEN, ChoiceConfig, estimate, rank, usd
from components.shared.serving.operations import ENDED, Ended, Rollout
from components.shared.serving.sequential_test import SessionSums, harm
from components.shared.serving.traces import FILES
from components.shared.storage.artifacts import write_text
from components.shared.storage.jsonl import read_jsonl
from pipelines.engines.run_folder import RunFolder
from pipelines.report.costs import REMOTE, spent
from pipelines.report.page import html

TEMPLATE = Path(__file__).with_name("production.html.j2")
BY_SIZE = (Tier.BRONZE, Tier.SILVER, Tier.GOLD)
Z95 = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Challenger less champion in one metric, over all stages of a rollout."""

    metric: Metric
    champion: float
    challenger: float
    mean: float
    low: float
    high: float
    worse: bool
    """Whether the interval lies on the side of harm."""
    better: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One rollout."""

    alias: str
    adapter: str
    status: str
    reason: str
    sessions: Mapping[Arm, int]
    differences: tuple[Difference, ...]

    @property
    def mark(self) -> str:
        return {"promoted": "good", "rolled_back": "bad"}.get(self.status, "held")


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Served requests of a model type on a tier."""

    model_type: str
    tier: Tier
    n: int
    p50_ms: float
    p95_ms: float
    score: float | None
    """Mean score of the answers that were scored; none where none was."""
    scored: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """What the recorded jobs on Spot were billed."""

    runs: int
    usd: float
    on_demand_usd: float

    @property
    def saved(self) -> float:
        return self.on_demand_usd - self.usd


@dataclass(kw_only=True, slots=True)
class Bill:
    """What the answered requests cost, and would have cost otherwise, in USD."""

    requests: int = 0
    unpriced: int = 0
    """Answered under a selection table that is not kept any more."""
    paid: float = 0.0
    largest: float = 0.0
    """All of them on the largest tier."""
    fixed: float = 0.0
    """All of them on the tier that an average prompt of their model type would go to."""
    tiers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Requests by tier."""

    @property
    def distilled(self) -> float:
        return self.largest - self.fixed

    @property
    def routed(self) -> float:
        return self.fixed - self.paid


@dataclass(frozen=True, kw_only=True, slots=True)
class Production:
    """Everything that the page says."""

    experiments: tuple[Experiment, ...]
    latencies: tuple[Latency, ...]
    spot: Spot
    bill: Bill
    prices_of: str


def production(
    serving: Path,
    decisions: Iterable[str],
    tables: Sequence[SelectionTable],
    choice: ChoiceConfig,
    runs: Iterable[RunFolder],
) -> Production:
    """Read it from a router's folder, its decision lines, its selection tables and the recorded runs.

    Raises UsageError where nothing was served yet, CorruptArtifact for a malformed file.
    """
    traces = [trace for path in sorted(serving.rglob(FILES)) for trace in whole_lines(path)]
    experiments = tuple(rollouts(serving))
    if not traces and not experiments:
        raise UsageError(f"{serving} holds no traces and no rollouts: serve requests first, or pass --serving")
    prices = load_prices()
    return Production(
        experiments=experiments,
        latencies=tuple(latencies(traces)),
        spot=spot(runs, prices),
        bill=bill(decisions, tables, choice),
        prices_of=f"{prices.as_of}",
    )


def whole_lines(path: Path) -> Iterator[Trace]:
    """The traces of a file; the last line of one that is still written, or was cut short by a crash, is left out."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                yield Trace.model_validate_json(line)
            except ValueError as error:
                raise CorruptArtifact(f"{path}:{number} is no trace: move the file away") from error


def rollouts(serving: Path) -> Iterator[Experiment]:
    """The rollouts that run and those that ended, the latest first."""
    now, ended = serving / "rollouts.json", serving / ENDED
    try:
        if now.is_file():
            for alias, kept in json.loads(now.read_bytes()).items():
                rollout = Rollout.model_validate(kept)
                yield experiment(alias, rollout.adapter, rollout.state)
    except ValueError as error:
        raise CorruptArtifact(f"{now} is malformed: move it away") from error
    for past in reversed(list(read_jsonl(ended, Ended)) if ended.is_file() else []):
        yield experiment(past.alias, past.adapter, past.state, "withdrawn")


def experiment(alias: str, adapter: str, state: CanaryState, undecided: str = "running") -> Experiment:
    """A rollout with its differences; `undecided` is what one is called that no test has ended."""
    first = [stage.get(Metric.ERROR, {}) for stage in state.sums]
    return Experiment(
        alias=alias,
        adapter=adapter,
        status=undecided if state.status == "running" else state.status,
        reason=state.reason,
        sessions={arm: sum(s[arm].sessions for s in first if arm in s) for arm in Arm},
        differences=tuple(d for metric in Metric if (d := difference(metric, state.sums)) is not None),
    )


def difference(metric: Metric, stages: Iterable[Mapping[Metric, Mapping[Arm, SessionSums]]]) -> Difference | None:
    """Challenger less champion, combined over stages as the test does; none where a stage has too few sessions yet.

    Latency is compared by its logarithm: its difference is a ratio, less 1.
    """
    pairs = [(stage[metric][Arm.CHAMPION], stage[metric][Arm.CHALLENGER]) for stage in stages if metric in stage]
    found = harm(pairs, 1)
    if found is None:
        return None
    d, half = found[0], Z95 * math.sqrt(found[1])
    champion, challenger = (sum(p[i].t for p in pairs) / sum(p[i].n for p in pairs) for i in (0, 1))
    low, high = d - half, d + half
    if metric == Metric.LATENCY:
        champion, challenger = math.exp(champion), math.exp(challenger)
        d, low, high = (math.expm1(value) for value in (d, low, high))
    bad = WORSE[metric] > 0
    return Difference(
        metric=metric,
        champion=champion,
        challenger=challenger,
        mean=d,
        low=low,
        high=high,
        worse=low > 0 if bad else high < 0,
        better=high < 0 if bad else low > 0,
    )


def latencies(traces: Iterable[Trace]) -> Iterator[Latency]:
    """p50 and p95 of the served requests, by model type and tier, the largest tier first."""
    groups: dict[tuple[str, Tier], list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.model_type, trace.tier].append(trace)
    for (model_type, tier), mine in sorted(groups.items(), key=lambda g: (g[0][0], BY_SIZE.index(g[0][1]))):
        times = [trace.latency_ms for trace in mine]
        cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
        scores = [trace.score for trace in mine if trace.score is not None]
        yield Latency(
            model_type=model_type,
            tier=tier,
            n=len(mine),
            p50_ms=cuts[9],
            p95_ms=cuts[18],
            score=fmean(scores) if scores else None,
            scored=len(scores),
        )


def spot(runs: Iterable[RunFolder], prices: Prices) -> Spot:
    """What the jobs of the recorded executions were billed, beside the same seconds on demand."""
    found = [spent(folder, prices) for folder in runs if folder.state.engine == REMOTE]
    priced = [cost for cost in found if cost.on_demand_usd > cost.teacher_usd]
    return Spot(
        runs=len(priced),
        usd=sum(cost.usd - cost.teacher_usd for cost in priced),
        on_demand_usd=sum(cost.on_demand_usd - cost.teacher_usd for cost in priced),
    )


def bill(decisions: Iterable[str], tables: Sequence[SelectionTable], choice: ChoiceConfig) -> Bill:
    """What the answered requests of decision lines cost; lines that are no decision are another log's."""
    known = {table.version: table for table in tables}
    found = Bill()
    for line in answered(decisions):
        table = known.get(line["table"])
        benchmarks = {b.tier: b for b in table.benchmarks if b.model_type == line["model_type"]} if table else {}
        if not benchmarks:
            found.unpriced += 1
            continue
        prompt, completion = line["tokens"]
        largest = next(benchmarks[tier] for tier in BY_SIZE if tier in benchmarks)
        found.requests += 1
        found.paid += line["usd"]
        found.largest += usd(largest, prompt, completion)
        found.fixed += usd(average_choice(benchmarks, choice, prompt, completion), prompt, completion)
        found.tiers[line["hops"][-1]["tier"]] += 1
    return found


def answered(decisions: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The decisions that ended in an answer."""
    for text in decisions:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("outcome") == "answered" and line.get("hops"):
            yield line


def average_choice(
    benchmarks: Mapping[Tier, Benchmark], choice: ChoiceConfig, prompt_tokens: float, completion_tokens: float
) -> Benchmark:
    """The tier that a request of that size would go to if prompts were not told apart, every tier being up."""
    candidates = [
        estimate(
            benchmark,
            complexity=None,
            characters=round(CHARACTERS_A_TOKEN * prompt_tokens),
            max_tokens=max(1, round(completion_tokens)),
            availability=1.0,
        )
        for benchmark in benchmarks.values()
    ]
    return benchmarks[rank(candidates, choice, choice.max_request_usd)[0].candidate.tier]


def write_production(found: Production, target: Path) -> Path:
    """Write the page; returns where it lies."""
    write_text(target, html(TEMPLATE, found=found, written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
    return target

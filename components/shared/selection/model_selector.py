"""Which policy a model type is served with on each tier: chosen by what was measured, explained, and reversible.

    registry (held-out scores) + serving measurements + prices -> benchmarks -> a proposal -> accepted -> the router

A policy in use is replaced where another is surely better (its lower bound above the mean of the one in use), or clearly
cheaper at nearly its quality, or where the one in use has left its tier's limits. A table takes effect once it is accepted
(selection_history.py), and can be taken back.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, Calibration, Measured, SelectionTable
from components.shared.contracts.weakness import Evaluated
from components.shared.performance.model_registry import Registry, Version, model_name
from components.shared.selection.prices import Prices
from components.shared.serving.choice import ChoiceConfig, Ranked, estimate, rank, usd
from components.shared.serving.complexity import calibrate, complexity, features, quality_by_complexity

SUBJECTS = ("candidate", "student")
"""Roles under which a gate judges the policy that is registered."""


class SelectionRules(BaseModel):
    """What a policy must keep to serve a tier, and what it takes to replace another."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_token_ms: dict[Tier, float] = {Tier.GOLD: 16.0}
    """Longest median time a token, in ms, by tier (specification: Gold is real time)."""
    max_first_token_ms: dict[Tier, float] = {Tier.SILVER: 250.0}
    """Longest median time to the first token, in ms, by tier."""
    min_samples: int = Field(default=100, ge=1)
    """Held-out scenarios below which a score is not chosen by."""
    min_saving: float = Field(default=0.1, gt=0, lt=1)
    """Share of the cost of an answer that a cheaper policy must save."""
    max_loss: float = Field(default=0.02, ge=0, le=1)
    """Held-out score that a cheaper policy may lose, by its lower bound."""


def benchmark(version: Version, measured: Measured, prices: Prices, bins: Sequence[float] = ()) -> Benchmark:
    """A registered policy's benchmark; `bins` is its quality by complexity, else its mean at any complexity.

    Raises PipelineError where the registry has no held-out score with a lower bound for it, UsageError for a machine
    without a price.
    """
    found = version.scores
    role = next((role for role in SUBJECTS if f"{role}_greedy_low" in found), None)
    if role is None or "scenarios" not in found:
        raise PipelineError(
            f"{version.name} version {version.number} has no held-out score with a lower bound: evaluate it again"
        )
    quality, per_second = found[f"{role}_greedy"], prices.of(measured.instance).usd_per_hour / 3600
    return Benchmark(
        model_type=measured.model_type,
        tier=measured.tier,
        trainer="distillation" if role == "student" else "srl_rlvr",
        base_model=measured.base_model,
        policy=measured.policy,
        quality=quality,
        quality_low=max(0.0, found[f"{role}_greedy_low"]),
        samples=int(found["scenarios"]),
        quality_by_complexity=tuple(bins) or (quality,),
        usd_per_million_input_tokens=1e6 * per_second / measured.input_tokens_per_s,
        usd_per_million_output_tokens=1e6 * per_second / measured.output_tokens_per_s,
        first_token_ms=measured.first_token_ms,
        token_ms=measured.token_ms,
        completion_tokens=measured.completion_tokens,
    )


def benchmarks(registry: Registry, measured: Iterable[Measured], prices: Prices) -> list[Benchmark]:
    """A benchmark for each measured policy. Raises UsageError for one that is not registered."""
    found = []
    for each in measured:
        name = model_name(each.model_type, each.tier)
        version = registry.find(name, each.policy)
        if version is None:
            raise UsageError(f"{name}: policy {each.policy[:12]} was measured but is not registered: register it first")
        found.append(benchmark(version, each, prices))
    return found


def calibration(
    model_type: str, prompts: Mapping[str, str], answers: Mapping[Tier, tuple[Sequence[Evaluated], str]]
) -> tuple[Calibration, dict[Tier, tuple[float, ...]]]:
    """How hard prompts are for the smallest tier, and each tier's quality by that, from answers to the same scenarios.

    `prompts` are by scenario; `answers` hold each tier's evaluation and the role that is its policy. Raises GateError where
    fewer than two tiers answered, or where there is nothing to tell apart.
    """
    scores = {
        tier: {a.scenario: a.outcomes[role].score for a in evaluated} for tier, (evaluated, role) in answers.items()
    }
    shared = sorted(set(prompts).intersection(*scores.values())) if scores else []
    if len(scores) < 2 or not shared:
        raise GateError(
            f"{model_type}: {len(scores)} tiers share {len(shared)} scenarios: evaluate two on the same ones"
        )
    by_size = [tier for tier in (Tier.GOLD, Tier.SILVER, Tier.BRONZE) if tier in scores]
    smallest, best = scores[by_size[0]], scores[by_size[-1]]
    fitted = calibrate(model_type, [prompts[s] for s in shared], [smallest[s] < best[s] for s in shared])
    hardness = [complexity(fitted, features(prompts[s])) for s in shared]
    return fitted, {tier: quality_by_complexity(hardness, [found[s] for s in shared]) for tier, found in scores.items()}


def select(
    candidates: Sequence[Benchmark],
    before: SelectionTable | None = None,
    calibrations: Sequence[Calibration] = (),
    rules: SelectionRules | None = None,
) -> SelectionTable:
    """A proposal: the best candidate for each model type and tier, with a line for each change against `before`.

    `before` itself where nothing would change. Raises GateError where no candidate may serve and none did before.
    """
    rules, chosen, reasons = rules or SelectionRules(), {}, []
    old = {(b.model_type, b.tier): b for b in before.benchmarks} if before else {}
    for key in sorted({*old, *((c.model_type, c.tier) for c in candidates)}):
        mine = [c for c in candidates if (c.model_type, c.tier) == key]
        current = _latest(old.get(key), mine)
        taken, reason = _choose(current, mine, rules)
        if taken is None:
            raise GateError(f"{key[0]} {key[1]}: no policy may serve: {reason}")
        chosen[key] = taken
        if current is None or taken.policy != current.policy:
            reasons.append(f"{key[0]} {key[1]}: {reason}")
    if not chosen:
        raise GateError("no candidates: measure a registered policy where it is served")
    kept = {c.model_type: c for c in (before.calibrations if before else ())} | {c.model_type: c for c in calibrations}
    proposal = SelectionTable(
        benchmarks=tuple(chosen.values()),
        calibrations=tuple(kept[name] for name in sorted(kept)),
        replaces=before.version if before else None,
        reasons=tuple(reasons),
    )
    return before if before and before.version == proposal.version else proposal


def _latest(current: Benchmark | None, mine: Sequence[Benchmark]) -> Benchmark | None:
    """The policy in use as it was last measured."""
    return next((c for c in mine if current and c.policy == current.policy), current)


def _choose(
    current: Benchmark | None, mine: Sequence[Benchmark], rules: SelectionRules
) -> tuple[Benchmark | None, str]:
    """The policy to serve, and why it is another than `current` where it is."""
    faults = {c.policy: broken(c, rules) for c in mine}
    able = sorted((c for c in mine if not faults[c.policy]), key=lambda c: (-c.quality_low, answer_usd(c), c.policy))
    if not able:
        why = "; ".join(f"{c.policy[:12]} {faults[c.policy]}" for c in mine) or "nothing was measured"
        return current, why
    if current is None:
        return able[0], f"first choice {told(able[0])}"
    if fault := broken(current, rules):
        return able[0], f"{told(current)} {fault}; now {told(able[0])}"
    for other in able:
        if other.quality_low > current.quality:
            return other, f"surely better: {told(other)} instead of {told(current)}"
    for other in sorted(able, key=answer_usd):
        saving = 1 - answer_usd(other) / answer_usd(current) if answer_usd(current) else 0.0
        if saving >= rules.min_saving and other.quality_low >= current.quality - rules.max_loss:
            return other, f"{saving:.0%} cheaper at nearly its quality: {told(other)} instead of {told(current)}"
    return current, "nothing is surely better or clearly cheaper"


def broken(found: Benchmark, rules: SelectionRules) -> str | None:
    """Why a policy may not serve its tier; none where it may."""
    if found.samples < rules.min_samples:
        return f"was scored on {found.samples} scenarios, {rules.min_samples} needed"
    limits = (
        ("a token", found.token_ms, rules.max_token_ms.get(found.tier)),
        ("to the first token", found.first_token_ms, rules.max_first_token_ms.get(found.tier)),
    )
    for what, value, limit in limits:
        if limit is not None and value > limit:
            return f"takes {value:.3g} ms {what}, {limit:g} allowed"
    return None


def answer_usd(found: Benchmark) -> float:
    """What writing one answer costs, in USD; prompts are the same for all."""
    return usd(found, 0.0, found.completion_tokens)


def told(found: Benchmark) -> str:
    return (
        f"{found.policy[:12]} ({found.base_model}, {found.trainer}; quality {found.quality:.3f}, at least "
        f"{found.quality_low:.3f}; {1000 * answer_usd(found):.4g} USD a thousand answers)"
    )


def recommended(
    table: SelectionTable, config: ChoiceConfig, *, characters: int, max_tokens: int
) -> dict[str, list[Ranked]]:
    """By model type, the tiers by what they are worth for a prompt of that many characters, every tier being up."""
    found: dict[str, list[Ranked]] = {}
    for model_type in sorted({b.model_type for b in table.benchmarks}):
        expected = [
            estimate(b, complexity=None, characters=characters, max_tokens=max_tokens, availability=1.0)
            for b in table.benchmarks
            if b.model_type == model_type
        ]
        found[model_type] = rank(expected, config, config.max_request_usd)
    return found

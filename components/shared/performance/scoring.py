"""Held-out scores of a policy, and comparisons of two with intervals.

The checker of the model type scores; it is never the reward that RLVR trains on. Comparisons are paired by scenario, and
intervals are percentile bootstraps over the scenarios.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Record, Scenario
from components.shared.training.datasets import Dataset
from components.shared.training.policies import load_frozen
from components.shared.training.rollouts import complete

NEGLIGIBLE = 1e-3
"""Expected resamples without a scenario that the teacher scores on, up to which a ratio can be resampled."""


class Interval(Record):
    """A mean with its confidence interval and sample size."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one policy scored, a number a scenario, in the scenarios' order."""

    greedy: np.ndarray
    sampled: np.ndarray
    correct: np.ndarray
    """1 where the greedy answer is right in everything."""
    rewards: np.ndarray
    """Outcome reward of the greedy answer, to see where it and the checker part."""
    answers: list[str]
    faults: list[tuple[str, ...]]


def score_policy(
    folder: Path, dataset: Dataset, scenarios: Sequence[Scenario], *, temperature: float, seed: int
) -> Scores:
    """Answer the scenarios greedily and sampled, and check the answers.

    Raises GateError for an empty set of scenarios, or when every answer of a set of 20 or more is the same.
    """
    if not scenarios:
        raise GateError("evaluation set is empty: generate held-out scenarios (trajectory_generation.counts.test)")
    policy = load_frozen(folder)
    torch.manual_seed(seed)
    prompts, budget = [s.prompt for s in scenarios], dataset.max_tokens(policy.tokenizer)
    greedy = complete(policy, prompts, max_tokens=budget)
    sampled = complete(policy, prompts, max_tokens=budget, temperature=temperature)
    if len(scenarios) >= 20 and len(set(greedy)) == 1:
        raise GateError(f"the policy at {folder.name} answers {greedy[0][:60]!r} to all {len(scenarios)} scenarios")
    checks = [dataset.trainer.check(s, answer) for s, answer in zip(scenarios, greedy, strict=True)]
    return Scores(
        greedy=np.array([c.score for c in checks]),
        sampled=np.array([dataset.trainer.check(s, a).score for s, a in zip(scenarios, sampled, strict=True)]),
        correct=np.array([float(c.correct) for c in checks]),
        rewards=np.array([dataset.trainer.reward(s, a).total for s, a in zip(scenarios, greedy, strict=True)]),
        answers=greedy,
        faults=[c.faults for c in checks],
    )


def mean_interval(values: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Interval:
    """The mean of the values with a bootstrap interval."""
    return _interval((values,), lambda v, axis: v.mean(axis=axis), confidence, resamples, seed)


def gain_interval(ours: np.ndarray, theirs: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Interval:
    """The mean difference ours - theirs on the same scenarios."""
    return mean_interval(ours - theirs, confidence=confidence, resamples=resamples, seed=seed)


def retention_interval(
    student: np.ndarray, teacher: np.ndarray, *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The ratio of mean scores student / teacher on the same scenarios.

    Raises GateError for a teacher that scores 0, or on so few scenarios that a resample may hold none of them.
    """
    if teacher.mean() == 0:
        raise GateError("the teacher scores 0 on every held-out scenario: there is nothing to retain")
    if (1 - np.mean(teacher > 0)) ** len(teacher) * resamples > NEGLIGIBLE:
        raise GateError(
            f"the teacher scores on {np.count_nonzero(teacher)} of {len(teacher)} held-out scenarios: too few to tell what "
            "is retained, generate more or take a better teacher"
        )
    return _interval(
        (student, teacher), lambda s, t, axis: s.mean(axis=axis) / t.mean(axis=axis), confidence, resamples, seed
    )


def _interval(
    samples: tuple[np.ndarray, ...], statistic: Callable, confidence: float, resamples: int, seed: int
) -> Interval:
    size = len(samples[0])
    value = float(statistic(*samples, axis=-1))
    if all(np.ptp(s) == 0 for s in samples):
        return Interval(mean=value, low=value, high=value, n=size)
    result = bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(
        mean=value, low=float(result.confidence_interval.low), high=float(result.confidence_interval.high), n=size
    )


class Criterion(Record):
    """One condition of a gate: a measured value against its bound."""

    value: float
    bound: float

    @property
    def margin(self) -> float:
        """How far the value is above its bound; negative where it fails."""
        return self.value - self.bound


def gate(criteria: dict[str, Criterion]) -> dict[str, Any]:
    """The gate as reports show it: accepted where the smallest margin is not negative. Raises GateError without criteria."""
    if not criteria:
        raise GateError("a gate without criteria would pass anything: configure at least one")
    margin = min(c.margin for c in criteria.values())
    return {
        "margin": margin,
        "accepted": margin >= 0,
        "criteria": {name: {"value": c.value, "bound": c.bound, "margin": c.margin} for name, c in criteria.items()},
    }


def describe(scores: Scores, **bootstrap_options: Any) -> dict[str, Any]:
    """Greedy, sampled and correct as intervals, for a report."""
    parts = {"greedy": scores.greedy, "sampled": scores.sampled, "correct": scores.correct}
    return {name: mean_interval(values, **bootstrap_options).model_dump() for name, values in parts.items()}


def final_metrics(policies: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What a registry is to know of described policies: greedy mean and lower bound by role, and the sample size."""
    means = {f"{role}_greedy": found["greedy"]["mean"] for role, found in policies.items()}
    bounds = {f"{role}_greedy_low": found["greedy"]["low"] for role, found in policies.items()}
    return {**means, **bounds, "scenarios": float(next(iter(policies.values()))["greedy"]["n"])}

"""How often a rollout stops a challenger that is just as good, and how soon one that is worse.

Whole rollouts run through the very `Canary` that serves. Sessions differ (a normal effect on score and latency), so requests
of one session are alike, as they are in a game.

    simulate_canary(CanaryConfig(), rollouts=1000, seed=0)
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from components.shared.contracts.records import Record
from components.shared.performance.performance_tracker import progress
from components.shared.serving.canary import Arm, Canary, CanaryConfig, Metric, Status, start
from components.shared.serving.sequential_test import SessionSums

TICK_S = 30.0
"""Seconds between two looks at the evidence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What one arm's requests are like."""

    requests_per_s: float = 4.0
    """Of both arms together."""
    session_requests: float = 6.0
    """Mean requests a session, geometric."""
    score: float = 0.8
    """Chance of a full score; else it is uniform in [0, 1]."""
    session_score_sd: float = 0.1
    """Spread of that chance between sessions."""
    error_rate: float = 0.01
    latency_ms: float = 120.0
    """Median."""
    latency_sd: float = 0.4
    """Spread of the latency's logarithm between requests; half as much again between sessions."""


class Effect(Record):
    """How the challenger differs from the champion."""

    name: str
    score: float = 0.0
    """Added to the chance of a full score."""
    error_rate: float = 0.0
    """Added."""
    latency: float = 1.0
    """Times."""


class Detection(Record):
    """What became of the rollouts under one effect."""

    effect: Effect
    rollouts: int
    stopped: int
    stopped_low: float
    stopped_high: float
    """95 % Wilson interval of the share that was stopped."""
    median_delay_s: float | None
    p90_delay_s: float | None
    """From the start to the stop, of those stopped; none where none was."""
    median_exposed: float | None
    """Requests that the challenger answered until then."""


EFFECTS = (
    Effect(name="A/A"),
    Effect(name="score -0.10", score=-0.10),
    Effect(name="score -0.20", score=-0.20),
    Effect(name="errors +3 points", error_rate=0.03),
    Effect(name="errors +20 points", error_rate=0.20),
    Effect(name="latency x 1.2", latency=1.2),
)


def simulate_canary(
    config: CanaryConfig,
    *,
    rollouts: int = 1000,
    effects: tuple[Effect, ...] = EFFECTS,
    traffic: Traffic | None = None,
    seed: int = 0,
) -> list[Detection]:
    """Simulate that many rollouts of each effect."""
    traffic = traffic or Traffic()
    return [
        _detection(
            effect,
            [
                rollout(config, traffic, effect, np.random.default_rng([seed, index, number]))
                for index in progress(range(rollouts), f"rollouts, {effect.name}")
            ],
        )
        for number, effect in enumerate(effects)
    ]


def rollout(
    config: CanaryConfig, traffic: Traffic, effect: Effect, rng: np.random.Generator
) -> tuple[Status, float, float]:
    """One rollout: how it ended, after how many seconds, and how many requests the challenger had by then."""
    canary = start(config, "simulated", 0.0)
    challenger = replace(
        traffic,
        score=traffic.score + effect.score,
        error_rate=traffic.error_rate + effect.error_rate,
        latency_ms=traffic.latency_ms * effect.latency,
    )
    now, exposed = 0.0, 0
    while canary.status == Status.RUNNING:
        now += TICK_S
        share = canary.share
        sessions = rng.poisson(traffic.requests_per_s * TICK_S / traffic.session_requests)
        chosen = rng.binomial(sessions, share)
        _feed(canary, Arm.CHAMPION, traffic, sessions - chosen, rng)
        exposed += _feed(canary, Arm.CHALLENGER, challenger, chosen, rng)
        canary.decide(now)
    return canary.status, now, exposed


def _feed(canary: Canary, arm: Arm, traffic: Traffic, sessions: int, rng: np.random.Generator) -> int:
    """Give the canary one tick's whole sessions of an arm; returns their number of requests."""
    if sessions == 0:
        return 0
    sizes = rng.geometric(1 / traffic.session_requests, sessions)
    owner = np.repeat(np.arange(sessions), sizes)
    errors = rng.random(len(owner)) < traffic.error_rate
    chance = np.clip(traffic.score + rng.normal(0, traffic.session_score_sd, sessions), 0, 1)[owner]
    scores = np.where(rng.random(len(owner)) < chance, 1.0, rng.random(len(owner)))
    slow = rng.normal(0, traffic.latency_sd / 2, sessions)[owner]
    latencies = math.log(traffic.latency_ms) + slow + rng.normal(0, traffic.latency_sd, len(owner))
    answered = ~errors
    canary.add(Metric.ERROR, arm, _sums(owner, errors.astype(float), sessions))
    canary.add(Metric.SCORE, arm, _sums(owner[answered], scores[answered], sessions))
    canary.add(Metric.LATENCY, arm, _sums(owner[answered], latencies[answered], sessions))
    if arm == Arm.CHALLENGER:
        canary.count_challenger(errors.tolist())
    return len(owner)


def _sums(owner: np.ndarray, values: np.ndarray, sessions: int) -> SessionSums:
    n = np.bincount(owner, minlength=sessions)
    t = np.bincount(owner, values, minlength=sessions)
    return SessionSums(
        sessions=int((n > 0).sum()),
        n=float(n.sum()),
        t=float(t.sum()),
        nn=float(n @ n),
        nt=float(n @ t),
        tt=float(t @ t),
    )


def _detection(effect: Effect, ends: list[tuple[Status, float, float]]) -> Detection:
    stops = [(delay, exposed) for status, delay, exposed in ends if status == Status.ROLLED_BACK]
    low, high = wilson(len(stops), len(ends))
    delays = [delay for delay, _ in stops]
    return Detection(
        effect=effect,
        rollouts=len(ends),
        stopped=len(stops),
        stopped_low=low,
        stopped_high=high,
        median_delay_s=float(np.median(delays)) if stops else None,
        p90_delay_s=float(np.quantile(delays, 0.9)) if stops else None,
        median_exposed=float(np.median([exposed for _, exposed in stops])) if stops else None,
    )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson interval of a share."""
    p, square = successes / trials, z * z / trials
    middle = (p + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(detections: list[Detection]) -> str:
    """The detections for a terminal."""
    lines = [
        f"{'challenger':<20}{'stopped':>9}{'95 % interval':>18}{'delay min, median / p90':>26}{'requests until':>16}"
    ]
    for d in detections:
        interval = f"{100 * d.stopped_low:.1f} - {100 * d.stopped_high:.1f} %"
        delay = "-" if d.median_delay_s is None else f"{d.median_delay_s / 60:.1f} / {(d.p90_delay_s or 0) / 60:.1f}"
        exposed = "-" if d.median_exposed is None else f"{d.median_exposed:.0f}"
        share = f"{100 * d.stopped / d.rollouts:.1f} %"
        lines.append(f"{d.effect.name:<20}{share:>9}{interval:>18}{delay:>26}{exposed:>16}")
    return "\n".join(lines)

"""How good a router is: what quality it buys for what cost, beside the routers that anybody could have.

A curve sweeps the price of a dollar in units of quality: each prompt goes to the tier with the best expected quality less
price times cost. Random routing is the straight line from the cheapest tier to the best one; the oracle sweeps with the
scores themselves. APGR is the area between a curve and the cheapest tier's quality over that of the best tier, the cost axis
scaled to [0, 1] between the two (after RouteLLM, arXiv 2406.18665, which counts calls where this counts USD).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Record
from components.shared.performance.scoring import Interval

STEPS = 101
"""Points of a curve: quantiles of the prices at which a prompt changes its tier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Every tier's answer to every prompt; N prompts, T tiers, the cheapest first and the best last."""

    scores_NT: np.ndarray
    usd_NT: np.ndarray
    expected_NT: np.ndarray
    """The quality that the router expected."""

    def __post_init__(self) -> None:
        if len(self.scores_NT) == 0:
            raise GateError("no prompts: evaluate the tiers on held-out scenarios first")
        if np.any(np.diff(self.usd_NT, axis=1) <= 0):
            raise GateError("a prompt costs no more on a dearer tier: order the tiers by cost")
        if self.scores_NT[:, -1].mean() <= self.scores_NT[:, 0].mean():
            raise GateError("the dearest tier is not better than the cheapest: there is nothing to route between")

    def take(self, rows: np.ndarray) -> "Evaluation":
        """The same of other rows."""
        return Evaluation(scores_NT=self.scores_NT[rows], usd_NT=self.usd_NT[rows], expected_NT=self.expected_NT[rows])


class CurveReport(Record):
    """A router beside the others; costs are USD a thousand requests."""

    samples: int
    all_cheapest: tuple[float, float]
    """Cost and quality of the cheapest tier alone."""
    all_best: tuple[float, float]
    router: tuple[tuple[float, float], ...]
    """Cost and quality along the curve, by rising cost."""
    oracle: tuple[tuple[float, float], ...]
    apgr: Interval
    apgr_random: float
    apgr_oracle: float
    cost_at_95: Interval
    """Cost of 95 % of the best tier's quality, by the router."""
    cost_at_95_random: float
    cost_at_95_oracle: float


def report(evaluation: Evaluation, *, resamples: int = 500, confidence: float = 0.95, seed: int = 0) -> CurveReport:
    """Measure the router; intervals are percentile bootstraps over the prompts. Raises GateError for nothing to route."""
    n = len(evaluation.scores_NT)
    router, oracle = curve(evaluation, evaluation.expected_NT), curve(evaluation, evaluation.scores_NT)
    ends = endpoints(evaluation)
    return CurveReport(
        samples=n,
        all_cheapest=_thousand(ends[0]),
        all_best=_thousand(ends[1]),
        router=tuple(map(_thousand, router)),
        oracle=tuple(map(_thousand, oracle)),
        apgr=_bootstrap(evaluation, _apgr, resamples, confidence, seed),
        apgr_random=area(ends, ends),
        apgr_oracle=area(oracle, ends),
        cost_at_95=_bootstrap(evaluation, lambda e: 1000 * _cost_at(e, 0.95), resamples, confidence, seed),
        cost_at_95_random=1000 * cost_at(ends, 0.95 * ends[1, 1]),
        cost_at_95_oracle=1000 * cost_at(oracle, 0.95 * ends[1, 1]),
    )


def curve(evaluation: Evaluation, expected_NT: np.ndarray) -> np.ndarray:
    """(cost, quality) of routing by an expectation at every price, by rising cost, quality never falling: (P, 2).

    The ends are the cheapest and the best tier alone, which every router can be; a point that costs more for less is left
    out, since a router would not be run there.
    """
    rows = np.arange(len(expected_NT))
    points = [endpoints(evaluation)]
    for price in _prices(expected_NT, evaluation.usd_NT):
        chosen = np.argmax(expected_NT - price * evaluation.usd_NT, axis=1)
        cost, quality = evaluation.usd_NT[rows, chosen].mean(), evaluation.scores_NT[rows, chosen].mean()
        points.append(np.array([[cost, quality]]))
    ordered = np.unique(np.concatenate(points), axis=0)
    best = np.maximum.accumulate(ordered[:, 1])
    return ordered[ordered[:, 1] >= best]


def _prices(expected_NT: np.ndarray, usd_NT: np.ndarray) -> np.ndarray:
    """Prices of a dollar, in quality, between which something changes: where a dearer tier stops being worth it."""
    tiers = range(expected_NT.shape[1])
    worth = [
        (expected_NT[:, j] - expected_NT[:, i]) / (usd_NT[:, j] - usd_NT[:, i]) for i in tiers for j in tiers if j > i
    ]
    prices = np.concatenate(worth)
    prices = prices[prices > 0]
    return np.concatenate([[0.0], np.quantile(prices, np.linspace(0, 1, STEPS))]) if len(prices) else np.zeros(1)


def endpoints(evaluation: Evaluation) -> np.ndarray:
    """(cost, quality) of the cheapest and the best tier alone, (2, 2); the line between them is random routing."""
    return np.stack([evaluation.usd_NT.mean(axis=0), evaluation.scores_NT.mean(axis=0)], axis=1)[[0, -1]]


def area(points: np.ndarray, ends: np.ndarray) -> float:
    """APGR of a curve: mean recovered share of the quality gap over the scaled cost."""
    cost = np.clip((points[:, 0] - ends[0, 0]) / (ends[1, 0] - ends[0, 0]), 0, 1)
    gain = (points[:, 1] - ends[0, 1]) / (ends[1, 1] - ends[0, 1])
    grid = np.linspace(0, 1, 201)
    return float(np.trapezoid(np.interp(grid, cost, gain), grid))


def cost_at(points: np.ndarray, quality: float) -> float:
    """The lowest cost at which a curve has a quality, between its points by straight lines (by mixing two routers)."""
    return float(np.interp(quality, points[:, 1], points[:, 0]))


def _apgr(evaluation: Evaluation) -> float:
    return area(curve(evaluation, evaluation.expected_NT), endpoints(evaluation))


def _cost_at(evaluation: Evaluation, share: float) -> float:
    return cost_at(curve(evaluation, evaluation.expected_NT), share * endpoints(evaluation)[1, 1])


def _bootstrap(
    evaluation: Evaluation, statistic: Callable[[Evaluation], float], resamples: int, confidence: float, seed: int
) -> Interval:
    n, rng, values = len(evaluation.scores_NT), np.random.default_rng(seed), []
    for _ in range(resamples):
        try:
            values.append(statistic(evaluation.take(rng.integers(0, n, n))))
        except GateError:
            continue  # a resample in which the tiers are equal has no gap to recover
    if len(values) < resamples / 2:
        raise GateError(f"the tiers are equal in most of {resamples} resamples of {n} prompts: evaluate more")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(mean=statistic(evaluation), low=float(low), high=float(high), n=n)


def _thousand(point: np.ndarray) -> tuple[float, float]:
    return 1000 * float(point[0]), float(point[1])

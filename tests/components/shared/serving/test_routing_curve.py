import numpy as np
import pytest

from components.shared.contracts.errors import GateError
from components.shared.serving.complexity import quality_by_complexity
from components.shared.serving.routing_curve import Evaluation, cost_at, curve, endpoints, report


def evaluation(knows, n=400, seed=0):
    """Half of the prompts are hard: the cheap tier fails them, the best one does not. `knows` is how well that is seen."""
    rng = np.random.default_rng(seed)
    hard = np.arange(n) % 2 == 1
    scores = np.stack([np.where(hard, 0.2, 0.9), np.where(hard, 0.8, 0.9)], axis=1) + rng.normal(0, 0.05, (n, 2))
    seen = knows * hard + (1 - knows) * rng.random(n)
    expected = np.stack([0.9 - 0.7 * seen, 0.9 - 0.1 * seen], axis=1)
    return Evaluation(scores_NT=scores, usd_NT=np.tile([1e-6, 1e-5], (n, 1)), expected_NT=expected)


def test_a_router_that_knows_is_the_oracle_and_one_that_does_not_is_random():
    knowing, blind = report(evaluation(1.0), resamples=50), report(evaluation(0.0), resamples=50)
    assert knowing.apgr_random == blind.apgr_random == pytest.approx(0.5, abs=1e-3)
    assert knowing.apgr.mean == pytest.approx(knowing.apgr_oracle, abs=0.05)
    assert knowing.apgr.low > 0.7
    assert blind.apgr.low < 0.55 < knowing.apgr.low
    assert knowing.cost_at_95.mean < 0.7 * knowing.cost_at_95_random
    assert knowing.cost_at_95_oracle <= knowing.cost_at_95.mean
    assert knowing.apgr.low <= knowing.apgr.mean <= knowing.apgr.high


def test_the_curve_runs_from_the_cheapest_to_the_best_and_never_falls():
    given = evaluation(0.5)
    points = curve(given, given.expected_NT)
    assert points[0] == pytest.approx(endpoints(given)[0])
    assert np.all(np.diff(points[:, 0]) >= 0) and np.all(np.diff(points[:, 1]) >= 0)
    assert cost_at(points, given.scores_NT[:, 1].mean()) <= 1e-5 + 1e-12


def test_nothing_to_route_between_is_refused():
    scores = np.full((10, 2), 0.5)
    with pytest.raises(GateError, match="nothing to route between"):
        Evaluation(scores_NT=scores, usd_NT=np.tile([1.0, 2.0], (10, 1)), expected_NT=scores)
    with pytest.raises(GateError, match="order the tiers by cost"):
        Evaluation(scores_NT=scores, usd_NT=scores, expected_NT=scores)
    with pytest.raises(GateError, match="no prompts"):
        Evaluation(scores_NT=scores[:0], usd_NT=scores[:0], expected_NT=scores[:0])


def test_bins_hold_their_mean_and_empty_ones_the_overall_mean():
    bins = quality_by_complexity([0.1] * 1000 + [0.9] * 1000, [1.0] * 1000 + [0.0] * 1000, bins=3)
    assert bins == pytest.approx((1.0, 0.5, 0.0), abs=0.01)

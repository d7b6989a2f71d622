import numpy as np
import pytest

from components.shared.contracts.errors import GateError
from components.shared.performance.scoring import (
    Criterion,
    gain_interval,
    gate,
    mean_interval,
    retention_interval,
)

OPTIONS = {"confidence": 0.95, "resamples": 1000, "seed": 0}


def test_a_mean_s_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        interval = mean_interval(rng.binomial(1, 0.3, 100).astype(float), **OPTIONS | {"resamples": 300})
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 198


def test_pairing_sees_a_small_gain_that_unpaired_noise_would_hide():
    rng = np.random.default_rng(2)
    theirs = rng.uniform(size=400)
    ours = theirs + 0.01
    assert gain_interval(ours, theirs, **OPTIONS).low == pytest.approx(0.01)
    assert mean_interval(ours, **OPTIONS).low < theirs.mean()


def test_retention_is_the_ratio_of_means_and_needs_a_teacher_that_scores():
    student, teacher = np.array([0.5, 0.4, 0.9]), np.array([1.0, 0.5, 0.9])
    assert retention_interval(student, teacher, **OPTIONS).mean == pytest.approx(1.8 / 2.4)
    with pytest.raises(GateError, match="scores 0"):
        retention_interval(student, np.zeros(3), **OPTIONS)


def test_the_gate_is_as_good_as_its_worst_criterion():
    verdict = gate({"gain": Criterion(value=0.5, bound=0.1), "retention": Criterion(value=0.94, bound=0.95)})
    assert verdict["margin"] == pytest.approx(-0.01)
    assert not verdict["accepted"]
    assert gate({"gain": Criterion(value=0.1, bound=0.1)})["accepted"]
    with pytest.raises(GateError, match="without criteria"):
        gate({})

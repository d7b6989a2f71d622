from statistics import fmean, pstdev

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from components.srl.reward_normalizer import RewardNormalizer

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=50)


@given(rewards)
def test_z_scores_have_mean_0_and_deviation_1(values):
    normalizer = RewardNormalizer.fit(values)
    zs = [normalizer.z(v) for v in values]
    assert fmean(zs) == approx(0, abs=1e-6)
    if normalizer.deviation > 1e-9:
        assert pstdev(zs) == approx(1, abs=1e-6)


@given(rewards)
def test_no_weight_is_negative_and_better_steps_never_weigh_less(values):
    normalizer = RewardNormalizer.fit(values)
    weights = [normalizer.weight(v) for v in sorted(values)]
    assert weights == sorted(weights)
    assert weights[0] >= 0


def test_equal_rewards_weigh_1():
    assert RewardNormalizer.fit([0.4, 0.4]).weight(0.4) == 1.0

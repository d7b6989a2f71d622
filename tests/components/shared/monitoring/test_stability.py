"""The population stability index: known values, and what chance does."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.monitoring.stability import BINS, deciles, histogram, moved, names_moved


def test_the_index_is_the_textbooks():
    """By hand: shares 0.6/0.4 to 0.4/0.6 give 0.2 ln 1.5 twice."""
    assert moved([600, 400], [400, 600]).index == pytest.approx(2 * 0.2 * math.log(1.5))
    assert moved([10, 10], [10, 10]).index == 0


def test_two_samples_of_one_distribution_stay_below_what_chance_is_given():
    rng = random.Random(0)
    for _ in range(200):
        old = histogram([rng.gauss(0, 1) for _ in range(500)])
        new = histogram([rng.gauss(0, 1) for _ in range(200)], old)
        found = moved(old.counts, new.counts)
        assert found.index < found.chance
    shifted = histogram([rng.gauss(1, 1) for _ in range(200)], old)
    assert (far := moved(old.counts, shifted.counts)).index > far.chance


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_every_value_falls_into_one_bin(values):
    found = histogram(values)
    assert sum(found.counts) == len(values)
    assert len(found.counts) == len(found.edges) + 1 <= BINS
    assert list(deciles(sorted(values))) == sorted(set(found.edges))


def test_a_name_that_only_one_side_has_counts():
    assert names_moved({"a": 50, "b": 50}, {"a": 50, "c": 50}).index > 1
    assert names_moved({"a": 50}, {"a": 20}).index == 0

import pytest

from benchmarks.learning.estimates import Verdict, difference, estimate, relative_gain, verdict


def test_three_seeds_have_students_interval():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / 3**0.5)  # t of 97.5 % at two degrees of freedom, deviation 1
    assert found.low == pytest.approx(2.0 - found.half)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate([4.0]).half is None and estimate([4.0]).low is None
    with pytest.raises(ValueError, match="no seed"):
        estimate([])


def test_differences_are_taken_by_seed_over_the_seeds_in_common():
    """Seeds that differ by far more than the arms do hide nothing when compared by seed."""
    ours, theirs = {1: 11.0, 2: 51.0, 3: 91.0, 4: 7.0}, {1: 10.0, 2: 50.0, 3: 90.0, 5: 0.0}
    found = difference(ours, theirs)
    assert (found.mean, found.half, found.n) == (1.0, 0.0, 3)
    assert difference({1: 1.0}, {2: 1.0}) is None


def test_a_relative_gain_is_a_mean_of_ratios_and_leaves_out_what_has_none():
    found = relative_gain({1: 3.0, 2: 3.0, 3: 1.0}, {1: 2.0, 2: 1.0, 3: 0.0})
    assert (found.mean, found.n) == (1.25, 2)
    assert relative_gain({3: 1.0}, {3: 0.0}) is None


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.30, 0.31, 0.32], Verdict.SHOWN),
        ([0.05, 0.30, 0.60], Verdict.IN_THE_MEAN),
        ([0.30], Verdict.ONE_SEED),
        ([0.10, 0.11, 0.12], Verdict.NOT_FOUND),
        ([0.10], Verdict.NOT_FOUND),
    ],
)
def test_a_hope_is_shown_only_where_the_whole_interval_reaches_it(gains, expected):
    assert verdict(estimate(gains), 0.20) == expected

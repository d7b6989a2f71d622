import math
import time

import numpy as np
import pytest

from benchmarks.measures import Measure, Ratio, cpu_seconds, publish, ratio, read_result


def test_a_ratio_s_interval_covers_the_truth_as_often_as_it_says():
    """Paired rounds share a burden that cancels."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        burden = rng.lognormal(0, 0.5, 7)
        above, below = (scale * burden * rng.lognormal(0, 0.1, 7) for scale in (3.0, 2.0))
        found = ratio(list(above), list(below))
        covered.append(found.low <= 1.5 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_one_round_says_nothing():
    found = ratio([2.0], [1.0])
    assert (found.low, found.mean, found.high) == (0.0, pytest.approx(2.0), math.inf)


@pytest.mark.parametrize(
    ("low", "high", "target", "verdict"),
    [
        (2.1, 3.0, {"at_least": 2.0}, "yes"),
        (1.9, 3.0, {"at_least": 2.0}, "unsure"),
        (1.0, 1.9, {"at_least": 2.0}, "no"),
        (0.4, 0.5, {"at_most": 0.6}, "yes"),
        (0.5, 0.7, {"at_most": 0.6}, "unsure"),
        (0.5, 0.7, {}, ""),
    ],
)
def test_a_target_is_met_where_the_whole_interval_is_past_it(low, high, target, verdict):
    found = Ratio(mean=(low + high) / 2, low=low, high=high)
    assert Measure(name="m", unit="s", ours=9.0, ratio=found, **target).verdict == verdict


def test_a_figure_without_a_peer_is_held_to_its_target():
    assert Measure(name="m", unit="s", ours=0.2, at_most=0.3).verdict == "yes"
    assert Measure(name="m", unit="s", ours=0.4, at_most=0.3).verdict == "no"


def test_what_is_published_can_be_read_back_and_a_missed_target_is_the_exit_code(capsys):
    measures = (
        Measure(name="a", unit="s", ours=1.0, peer=2.0, peer_name="p", ratio=Ratio(mean=2, low=1.9, high=2.1)),
        Measure(name="b", unit="s", ours=1.0, at_most=0.5),
    )
    assert publish(*measures) == 1
    result = read_result(capsys.readouterr().out)
    assert result is not None and result.measures == measures and result.machine.cores > 0
    assert read_result("Traceback\nValueError: no") is None
    assert read_result("") is None


def test_ways_take_turns_and_the_first_round_is_not_counted():
    order = []

    def burn(name, seconds):
        order.append(name)
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    found = cpu_seconds({"a": lambda: burn("a", 0.02), "b": lambda: burn("b", 0.01)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(values) for values in found.values()] == [3, 3]
    assert all(a > b for a, b in zip(found["a"], found["b"], strict=True))

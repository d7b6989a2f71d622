"""When training stops, what counts as the best, and that a resumed loop goes on as if nothing had happened."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.errors import GateError, UsageError
from components.shared.performance.validation_loop import ValidationLoop, ValidationSettings, compared

scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def loop(**settings):
    return ValidationLoop(settings=ValidationSettings(every=10, **settings))


def shown(found, means):
    """Show a loop constant scores; gives the looks that were the best so far and when it wanted to stop."""
    best, stopped = [], None
    for step, mean in enumerate(means):
        if found.see(step, [mean] * 4):
            best.append(step)
        if stopped is None and found.stop:
            stopped = step
    return best, stopped


def test_it_stops_after_patience_looks_without_an_improvement():
    assert shown(loop(patience=2), [0.5, 0.6, 0.6, 0.55, 0.7]) == ([0, 1, 4], 3)
    assert shown(loop(patience=3), [0.5, 0.6, 0.6, 0.55, 0.7]) == ([0, 1, 4], None)


def test_a_smaller_step_than_min_delta_is_kept_but_buys_no_patience():
    found = loop(patience=2, min_delta=0.1)
    assert shown(found, [0.5, 0.55, 0.59]) == ([0, 1, 2], 2)
    assert found.stop == "no improvement of 0.1 in 2 looks: best held-out score 0.590 at update 2"


def test_small_steps_add_up_to_an_improvement():
    assert shown(loop(patience=2, min_delta=0.1), [0.5, 0.56, 0.61, 0.62])[1] is None


def test_it_is_due_as_often_as_asked():
    assert [step for step in range(1, 31) if loop().due(step)] == [10, 20, 30]
    assert not ValidationLoop(settings=ValidationSettings()).due(10)


def test_a_gain_is_paired_with_the_start():
    look = compared(7, [1.0, 0.5, 0.9, 0.6], [0.9, 0.4, 0.7, 0.6])
    assert (look.step, look.score, look.gain) == (7, 0.75, pytest.approx(0.1))
    half = 1.959964 * math.sqrt(0.02 / 3) / 2
    assert (look.gain_low, look.gain_high) == (pytest.approx(0.1 - half), pytest.approx(0.1 + half))


def test_nothing_to_look_at_and_other_scenarios_are_refused():
    found = loop()
    with pytest.raises(GateError, match="validation set is empty"):
        found.see(0, [])
    found.see(0, [0.1, 0.2])
    with pytest.raises(UsageError, match="1 scores, 2 at the first look"):
        found.see(1, [0.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 4), st.floats(0, 0.3))
def test_the_best_look_is_the_first_of_the_highest_after_the_start(means, patience, min_delta):
    found = loop(patience=patience, min_delta=min_delta)
    shown(found, means)
    trained = [look.score for look in found.looks[1:]] or [means[0]]
    assert found.best.step == trained.index(max(trained)) + (len(means) > 1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(1, 4), st.data())
def test_a_restored_loop_goes_on_alike(means, patience, data):
    cut = data.draw(st.integers(1, len(means) - 1))
    whole, first, second = (loop(patience=patience, min_delta=0.05) for _ in range(3))
    shown(whole, means)
    shown(first, means[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    for step, mean in enumerate(means[cut:], cut):
        second.see(step, [mean] * 4)
    assert second == whole

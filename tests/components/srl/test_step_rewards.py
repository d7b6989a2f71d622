import difflib
import random

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from components.srl.step_rewards import above_floor, exact, fast, typed

texts = st.text(alphabet="abcde ;", max_size=80)
actions = st.dictionaries(st.sampled_from("pqrs"), st.integers(0, 2), max_size=4)


@given(texts, texts)
def test_exact_is_the_standard_library_s_to_the_last_bit(a, b):
    assert exact(a, b) == difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def test_long_texts_are_not_judged_by_autojunk():
    """At 400 characters the standard library's default throws most of the likeness away."""
    rng = random.Random(0)
    expert = "".join(rng.choice("etaoin shrdlu") for _ in range(400))
    ours = "".join(c if rng.random() > 0.1 else "x" for c in expert)
    assert exact(ours, expert) > 0.85
    assert difflib.SequenceMatcher(None, ours, expert).ratio() < 0.5


@given(texts, texts)
def test_fast_is_never_below_exact_and_1_only_for_equal_texts(a, b):
    assert fast(a, b) >= exact(a, b) - 1e-12
    assert (fast(a, b) == 1.0) == (a == b)


def test_fast_ranks_almost_as_exact_does():
    from scipy.stats import spearmanr

    rng = random.Random(1)
    expert = "".join(rng.choice("etaoin shrdlu") for _ in range(300))
    noisy = ["".join(c if rng.random() > rate / 40 else rng.choice("xyz") for c in expert) for rate in range(40)]
    assert spearmanr([exact(t, expert) for t in noisy], [fast(t, expert) for t in noisy]).statistic > 0.98


@given(actions, actions)
def test_typed_is_a_symmetric_f1_and_1_for_equal_actions(a, b):
    a, b = {"kind": "give", **a}, {"kind": "give", **b}
    assert typed(a, b) == approx(typed(b, a))
    assert 0 <= typed(a, b) <= 1
    assert typed(a, a) == 1.0


def test_another_kind_or_an_unreadable_action_earns_nothing():
    assert typed({"kind": "take", "item": "key"}, {"kind": "give", "item": "key"}) == 0.0
    assert typed(None, {"kind": "give"}) == 0.0


def test_the_floor_is_worth_nothing_and_full_likeness_everything():
    assert above_floor(0.3, 0.3) == above_floor(0.1, 0.3) == 0.0
    assert above_floor(1.0, 0.3) == 1.0
    assert above_floor(0.65, 0.3) == approx(0.5)

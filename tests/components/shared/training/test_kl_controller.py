import json

from hypothesis import given
from hypothesis import strategies as st

from components.shared.training.kl_controller import KLController


def controller(**changes):
    values = {
        "beta": 0.1,
        "beta_floor": 0.1,
        "target_nats_per_token": 0.05,
        "ceiling_nats_per_token": 0.1,
        "patience": 3,
    }
    return KLController(**(values | changes))


def test_beta_rises_above_the_target_and_falls_below_it_no_lower_than_its_floor():
    c = controller()
    assert c.accept(0.09)
    assert round(c.beta, 6) == 0.12
    for _ in range(50):
        c.accept(0.001)
    assert c.beta == c.beta_floor


def test_an_update_at_the_ceiling_is_refused_and_the_next_one_is_smaller():
    c = controller()
    assert not c.accept(0.1)
    assert (c.refused, c.step_scale) == (1, 0.5)
    assert c.accept(0.04)
    assert c.refused_in_a_row == 0


def test_patience_counts_refusals_in_a_row():
    c = controller()
    c.accept(0.2), c.accept(0.2), c.accept(0.01), c.accept(0.2), c.accept(0.2)
    assert not c.exhausted
    c.accept(0.2)
    assert c.exhausted


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(0, 60))
def test_no_accepted_kl_reaches_the_ceiling_and_a_restored_controller_goes_on_the_same(values, cut):
    whole, first = controller(), controller()
    accepted = [kl for kl in values if whole.accept(kl)]
    assert max(accepted, default=0.0) == whole.highest_accepted < 0.1
    for kl in values[:cut]:
        first.accept(kl)
    second = controller(beta=9.0)
    second.restore(json.loads(json.dumps(first.state())))
    for kl in values[cut:]:
        second.accept(kl)
    assert second == whole

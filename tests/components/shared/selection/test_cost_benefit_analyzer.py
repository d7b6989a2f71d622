"""Costs by hand, units and all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Measured
from components.shared.selection.cost_benefit_analyzer import (
    Option,
    Traffic,
    analyze,
    break_even_requests,
    option,
    request_usd,
)
from components.shared.selection.prices import Prices, load_prices
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping

TRAFFIC = Traffic(requests_a_month=1_000_000, input_tokens=1000, output_tokens=100, utilisation=0.5)
INSTANCES = {
    "small": {"memory_gib": 192, "gpus": 1, "gpu_memory_gib": 24},
    "large": {"memory_gib": 2048, "gpus": 8, "gpu_memory_gib": 80},
}


@pytest.fixture
def pair(scored, measured, prices):
    gold = option(scored("a", 0.9), measured("a"), 100.0, prices)
    big = measured("b", tier=Tier.BRONZE, instance="large", parameters=70_000_000_000, token_ms=30.0)
    return gold, option(scored("b", 0.95, tier=Tier.BRONZE), big, 5000.0, prices)


def test_a_worked_example(pair, prices):
    found = analyze(*pair, TRAFFIC, prices, INSTANCES)
    # 3.6 USD/h are 0.001 USD/s; (1000/10000 + 100/1000) s a request, at half use: 0.0004 USD. The large costs ten times.
    assert found.usd_per_thousand_requests == pytest.approx(0.4)
    assert found.baseline_usd_per_thousand_requests == pytest.approx(4.0)
    assert found.saving_usd_per_month == pytest.approx(3600.0)
    assert found.break_even_requests == pytest.approx(100 / 0.0036)
    assert found.break_even_months == pytest.approx(100 / 3600)
    assert found.hosting_usd_per_month == pytest.approx(3.6 * 730)
    assert found.hosting_break_even_requests_per_month == pytest.approx(3.6 * 730 / 0.004)
    assert (found.answer_ms, found.baseline_answer_ms) == (20 + 100 * 10, 20 + 100 * 30)
    assert found.quality_difference == pytest.approx(-0.05)
    assert found.quality_difference_low == pytest.approx(-0.07)


def test_weights_must_fit_the_machine(pair, prices, measured, scored):
    assert analyze(*pair, TRAFFIC, prices, INSTANCES).hardware.fits
    huge = option(scored("c"), measured("c", parameters=70_000_000_000), 0.0, prices)
    found = analyze(huge, pair[1], TRAFFIC, prices, INSTANCES).hardware
    assert not found.fits and found.needed_gib == pytest.approx(1.2 * 140e9 / 2**30) and found.present_gib == 24
    with pytest.raises(UsageError, match=r"add it to configs/instances\.yaml"):
        analyze(*pair, TRAFFIC, prices, {})


def test_what_saves_nothing_never_breaks_even(pair, prices):
    gold, bronze = pair
    found = analyze(bronze, gold, TRAFFIC, prices, INSTANCES)
    assert found.break_even_requests is None and found.break_even_months is None
    assert found.saving_usd_per_month < 0


def test_sensitivity_spans_what_the_sources_say(pair, prices):
    found = {s.what: s for s in analyze(*pair, TRAFFIC, prices, INSTANCES).sensitivity}
    assert (found["large"].low, found["large"].high, found["large"].unit) == (18.0, 72.0, "USD/h")
    assert found["large"].break_even_low_requests == pytest.approx(100 / (0.002 - 0.0004))
    assert found["small"].break_even_low_requests == found["small"].break_even_high_requests
    assert found["training"].break_even_high_requests == pytest.approx(4 * found["training"].break_even_low_requests)
    assert found["utilisation"].high == 1.0
    first, *_, last = analyze(*pair, TRAFFIC, prices, INSTANCES).sensitivity
    assert last.what == "small" and first.what != "small"


def test_prices_of_one_machine_move_together(scored, measured, prices):
    one = option(scored("a"), measured("a", instance="large"), 100.0, prices)
    slow = measured("b", instance="large", output_tokens_per_s=500.0)
    found = analyze(one, option(scored("b"), slow, 0.0, prices), TRAFFIC, prices, INSTANCES)
    (large,) = [s for s in found.sensitivity if s.what == "large"]
    assert large.break_even_low_requests == pytest.approx(4 * large.break_even_high_requests)


@given(st.floats(1, 1e6), st.floats(1.0, 1e4), st.floats(0.05, 1.0))
def test_at_the_break_even_the_bills_are_equal(training, tokens, used):
    prices = Prices.model_validate(
        {"as_of": "2026-01-01", "instances": {n: {"usd_per_hour": p, "source": "s"} for n, p in (("x", 5), ("y", 50))}}
    )
    made = [
        Option(
            benchmark=None, measured=_measured(name), training_usd=training, usd_per_hour=prices.of(name).usd_per_hour
        )
        for name in ("x", "y")
    ]
    traffic = Traffic(requests_a_month=1, input_tokens=tokens, output_tokens=tokens, utilisation=used)
    requests = break_even_requests(*made, traffic)
    ours, theirs = (request_usd(o, traffic) * requests for o in made)
    assert training + ours == pytest.approx(theirs)


def _measured(instance):
    return Measured(
        model_type="m",
        tier=Tier.GOLD,
        policy="p",
        base_model="b",
        parameters=1,
        instance=instance,
        input_tokens_per_s=1000.0,
        output_tokens_per_s=100.0,
        first_token_ms=1.0,
        token_ms=1.0,
        completion_tokens=10.0,
        samples=1,
    )


def test_a_benchmark_and_a_measurement_of_two_policies_are_refused(scored, measured, prices):
    with pytest.raises(UsageError, match="pass one policy's"):
        option(scored("a"), measured("b"), 0.0, prices)


def test_the_price_list_is_dated_sourced_and_of_known_machines():
    prices = load_prices()
    known = read_mapping(configs_root() / "instances.yaml")["instances"]
    assert prices.as_of.year >= 2026
    assert all(price.source for price in prices.instances.values())
    assert set(prices.instances) - {"local"} <= set(known)


def test_a_price_outside_its_own_range_is_refused(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("as_of: 2026-01-01\ninstances: {x: {usd_per_hour: 9, low: 1, high: 2, source: s}}\n")
    with pytest.raises(UsageError, match=r"usd_per_hour 9 is not in \[1, 2\]"):
        load_prices(file)

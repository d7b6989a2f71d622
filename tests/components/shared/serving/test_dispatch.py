import asyncio

import pytest

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.serving.dispatch import AllUnavailable, HopOutcome, Route
from components.shared.serving.health import Health
from components.shared.serving.srl_model_adapter import Unavailable, ask

ORDER = [Route(tier=tier, alias=f"npc@{tier}") for tier in (Tier.GOLD, Tier.SILVER)]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_five_failures_close_a_tier_and_one_trial_after_the_cool_down_decides(tiers):
    clock = Clock()

    async def body(states, dispatcher):
        gold = dispatcher.backends[Tier.GOLD].health
        states[Tier.GOLD].failures = 6
        for _ in range(5):
            served = await dispatcher.generate(ORDER, ask("x", 1), 5)
            assert [hop.outcome for hop in served.hops] == [HopOutcome.UNAVAILABLE, HopOutcome.ANSWERED]
        assert not gold.admits
        served = await dispatcher.generate(ORDER, ask("x", 1), 5)
        assert [hop.outcome for hop in served.hops] == [HopOutcome.COOLING, HopOutcome.ANSWERED]
        clock.now = 60.0
        await dispatcher.generate(ORDER, ask("x", 1), 5)  # the trial fails: another minute
        assert not gold.admits
        clock.now = 120.0
        assert (await dispatcher.generate(ORDER, ask("x", 1), 5)).route.tier == Tier.GOLD
        assert gold.admits
        assert states[Tier.GOLD].failures == 0

    tiers(body, clock)


def test_only_one_request_at_a_time_is_the_trial():
    clock = Clock()
    health = Health(max_failures=1, clock=clock)
    health.failed()
    clock.now = 61.0
    with health.attempt():
        assert not health.admits
    assert health.admits


def test_a_given_up_trial_decides_nothing():
    clock = Clock()
    health = Health(max_failures=1, clock=clock)
    health.failed()
    clock.now = 61.0
    with pytest.raises(asyncio.CancelledError), health.attempt():
        raise asyncio.CancelledError
    assert health.admits


def test_each_server_is_asked_once_and_a_wrong_request_goes_no_further(tiers):
    async def body(states, dispatcher):
        states[Tier.GOLD].failures = states[Tier.SILVER].failures = 1
        with pytest.raises(AllUnavailable, match=r"gold: .*500.*; silver: .*500") as caught:
            await dispatcher.generate(ORDER, ask("x", 1), 5)
        assert len(caught.value.hops) == 2
        with pytest.raises(UsageError, match="5000 is too large"):
            await dispatcher.generate(ORDER, ask("x", 5000), 5)
        assert states[Tier.SILVER].served == 0

    tiers(body)


def test_a_slow_tier_is_left_for_the_next_one(tiers):
    async def body(states, dispatcher):
        states[Tier.GOLD].first_s = 2.0
        served = await dispatcher.generate(ORDER, ask("x", 1), 0.05)
        assert [hop.outcome for hop in served.hops] == [HopOutcome.TIMEOUT, HopOutcome.ANSWERED]

    tiers(body)


def test_a_stream_moves_on_before_its_first_piece_and_never_after(tiers):
    async def body(states, dispatcher):
        states[Tier.GOLD].failures = 1
        served = await dispatcher.stream(ORDER, ask("x", 3), 5)
        assert "".join([d.text async for d in served.value]) == "silver silver silver"
        served.close()
        states[Tier.GOLD].break_stream_after = 1
        served = await dispatcher.stream(ORDER, ask("x", 3), 5)
        assert (await anext(served.value)).text == "gold"
        with pytest.raises(Unavailable):
            await anext(served.value)
        served.close()
        assert dispatcher.backends[Tier.GOLD].health.availability < 1

    tiers(body)

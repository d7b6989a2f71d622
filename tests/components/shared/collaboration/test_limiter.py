import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.collaboration.limiter import Limiter, Overloaded


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def flight(limiter, clock, outcomes, seconds=1.0):
    """Requests that are in flight together and end together; returns the most that were at once."""
    everyone = asyncio.Event()
    peak = 0

    async def one(good):
        nonlocal peak
        async with limiter.slot():
            peak = max(peak, limiter.in_flight)
            await everyone.wait()
            if not good:
                raise Overloaded

    tasks = [asyncio.create_task(one(good)) for good in outcomes]
    for _ in range(3):
        await asyncio.sleep(0)
    clock.now += seconds
    everyone.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    return peak


def test_the_window_doubles_to_its_most_while_all_goes_well():
    async def check():
        limiter = Limiter(concurrency=32, clock=(clock := Clock()))
        windows = []
        for _ in range(4):
            await flight(limiter, clock, [True] * int(limiter.window))
            windows.append(limiter.window)
        assert windows == [16, 32, 32, 32]

    asyncio.run(check())


def test_a_flight_of_failures_halves_the_window_once_and_then_it_grows_by_one_a_flight():
    async def check():
        limiter = Limiter(concurrency=8, clock=(clock := Clock()))
        await flight(limiter, clock, [False] * 8)
        assert limiter.window == 4
        await flight(limiter, clock, [True] * 4)
        assert 4.9 < limiter.window <= 5
        for _ in range(5):
            await flight(limiter, clock, [False] * int(limiter.window))
        assert limiter.window == 1

    asyncio.run(check())


def test_answers_three_times_as_slow_as_at_their_best_take_off_a_tenth():
    async def check():
        limiter = Limiter(concurrency=8, clock=(clock := Clock()))
        for seconds in (1.0, 2.9, 1.2):
            await flight(limiter, clock, [True] * 8, seconds)
        assert limiter.window == 8
        await flight(limiter, clock, [True] * 8, 3.2)
        assert limiter.window == pytest.approx(7.2)

    asyncio.run(check())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60), st.integers(1, 6))
def test_never_more_in_flight_than_the_window_and_every_request_gets_its_turn(requests, concurrency):
    async def check():
        limiter = Limiter(concurrency=concurrency, clock=Clock())
        done = []

        async def one(number, good, turns):
            async with limiter.slot():
                assert limiter.in_flight <= concurrency
                for _ in range(turns):
                    await asyncio.sleep(0)
                done.append(number)
                if not good:
                    raise Overloaded

        tasks = [one(number, *request) for number, request in enumerate(requests)]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(done) == list(range(len(requests))) and limiter.in_flight == 0
        assert 1 <= limiter.window <= concurrency

    asyncio.run(check())


def test_who_gives_up_waiting_leaves_no_hole():
    async def check():
        limiter = Limiter(concurrency=1)

        async def hold(event):
            async with limiter.slot():
                await event.wait()

        event = asyncio.Event()
        first, second, third = (asyncio.create_task(hold(event)) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        event.set()
        await asyncio.gather(first, third)
        assert second.cancelled() and limiter.in_flight == 0

    asyncio.run(check())


@pytest.mark.parametrize("rates", [{"requests_per_minute": 6000}, {"tokens_per_minute": 60_000}])
def test_rates_space_the_requests(rates):
    async def check():
        limiter = Limiter(concurrency=1, **rates)
        started = time.monotonic()
        for _ in range(6):
            async with limiter.slot():
                limiter.used(10)
        assert time.monotonic() - started >= 0.049

    asyncio.run(check())


def test_a_retry_after_holds_everyone_back():
    async def check():
        limiter = Limiter(concurrency=4)
        started = time.monotonic()
        told = Overloaded()
        told.retry_after_s = 0.1
        with pytest.raises(Overloaded):
            async with limiter.slot():
                raise told
        async with limiter.slot():
            assert time.monotonic() - started >= 0.1

    asyncio.run(check())

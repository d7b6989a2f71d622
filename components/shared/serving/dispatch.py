"""The only retry loop: a request goes to the servers of an order, one after the other, until one answers.

Back ends try once and the layers try nothing by themselves, so a failing server is never asked more often than is written
here. Once the first piece of a stream has gone out, nothing is tried again: two halves of two answers are no answer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from components.shared.contracts.records import Record, Tier
from components.shared.serving.health import Health
from components.shared.serving.hot_swap import Aliases
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, Delta, ModelServer, Unavailable

T = TypeVar("T")
CHALLENGER = "#challenger"
"""Ending of the alias that a rollout's challenger answers under."""


class HopOutcome(StrEnum):
    """What came of asking one server."""

    ANSWERED = "answered"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    COOLING = "cooling"
    """Not asked: it is cooling down."""


class Hop(Record):
    """One server on a request's way."""

    tier: Tier
    model: str
    outcome: HopOutcome
    latency_ms: float
    """Until the answer, or a stream's first piece, or the failure."""
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One tier's server with what is known of it."""

    server: ModelServer
    aliases: Aliases
    health: Health

    @contextlib.contextmanager
    def lease(self, alias: str) -> Iterator[str]:
        """The adapter behind the alias for as long as the block lasts.

        A challenger that has been withdrawn gives way to the champion, and an alias with nothing behind it to the base.
        """
        if self.aliases.target(alias) is None:
            alias = alias.removesuffix(CHALLENGER)
        if self.aliases.target(alias) is None:
            yield self.server.base.name
        else:
            with self.aliases.lease(alias) as name:
                yield name


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A tier, and the alias to ask there."""

    tier: Tier
    alias: str


@dataclass(kw_only=True, slots=True)
class Served(Generic[T]):
    """What answered, and the way there. `close` gives the adapter free; a whole answer's is free already."""

    value: T
    route: Route
    model: str
    hops: tuple[Hop, ...]
    close: Callable[[], None] = field(default=lambda: None)


class AllUnavailable(Unavailable):
    """Nobody on the order answered."""

    def __init__(self, hops: Sequence[Hop]):
        ways = "; ".join(f"{hop.tier}: {hop.reason or hop.outcome}" for hop in hops) or "no tier may be asked"
        super().__init__(f"no tier answered ({ways}): try again later")
        self.hops = tuple(hops)


class Dispatcher:
    """Asks the tiers' servers."""

    def __init__(self, backends: Mapping[Tier, Backend]):
        self.backends = backends
        self._challengers: dict[str, Health] = {}

    async def generate(self, order: Sequence[Route], request: ChatRequest, timeout_s: float) -> Served[Answer]:
        """The first whole answer along the order; each server has `timeout_s`.

        Raises AllUnavailable, or UsageError where a server finds the request itself wrong: no other would take it.
        """
        served = await self._first(order, lambda server, model: server.generate(model, request), timeout_s)
        served.close()
        return served

    async def stream(
        self, order: Sequence[Route], request: ChatRequest, timeout_s: float
    ) -> Served[AsyncGenerator[Delta, None]]:
        """The first stream along the order that begins within `timeout_s`. The caller closes what it gets."""

        async def begin(server: ModelServer, model: str) -> tuple[Delta, AsyncGenerator[Delta, None]]:
            pieces = server.stream(model, request)
            return await anext(pieces), pieces

        begun = await self._first(order, begin, timeout_s)
        health = self._health(self.backends[begun.route.tier], begun.route, begun.model)
        return Served(
            value=_rest(*begun.value, health), route=begun.route, model=begun.model, hops=begun.hops, close=begun.close
        )

    async def _first(
        self, order: Sequence[Route], ask: Callable[[ModelServer, str], Awaitable[T]], timeout_s: float
    ) -> Served[T]:
        hops: list[Hop] = []
        for route in order:
            backend = self.backends[route.tier]
            with contextlib.ExitStack() as lease:
                model = lease.enter_context(backend.lease(route.alias))
                health = self._health(backend, route, model)
                started = time.perf_counter()
                if not health.admits:
                    hops.append(_hop(route.tier, model, HopOutcome.COOLING, started))
                    continue
                try:
                    with health.attempt():
                        async with asyncio.timeout(timeout_s):
                            value = await ask(backend.server, model)
                except (Unavailable, TimeoutError) as error:
                    hops.append(_failed(route.tier, model, started, error, timeout_s))
                    continue
                hops.append(_hop(route.tier, model, HopOutcome.ANSWERED, started))
                return Served(value=value, route=route, model=model, hops=tuple(hops), close=lease.pop_all().close)
        raise AllUnavailable(hops)

    def _health(self, backend: Backend, route: Route, model: str) -> Health:
        """The server's health; a challenger has its own, so that a broken one does not take the champion's server along."""
        if not route.alias.endswith(CHALLENGER):
            return backend.health
        return self._challengers.setdefault(model, backend.health.fresh())


async def _rest(first: Delta, pieces: AsyncGenerator[Delta, None], health: Health) -> AsyncGenerator[Delta, None]:
    yield first
    try:
        async for delta in pieces:
            yield delta
    except Unavailable:
        health.failed()
        raise


def _hop(tier: Tier, model: str, outcome: HopOutcome, started: float, reason: str | None = None) -> Hop:
    latency = 1000 * (time.perf_counter() - started)
    return Hop(tier=tier, model=model, outcome=outcome, latency_ms=latency, reason=reason)


def _failed(tier: Tier, model: str, started: float, error: Exception, timeout_s: float) -> Hop:
    if isinstance(error, TimeoutError):
        return _hop(tier, model, HopOutcome.TIMEOUT, started, f"no answer within {timeout_s * 1000:.0f} ms")
    return _hop(tier, model, HopOutcome.UNAVAILABLE, started, str(error))

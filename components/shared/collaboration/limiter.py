"""How hard an endpoint is asked: as many requests at once as it bears, and never faster than its rate limits.

AIMD, as TCP does it (Chiu and Jain 1989): an answer widens the window by 1/window, or doubles it while nothing has gone
wrong yet; a 429, a 5xx or a timeout halves it, once for all requests that were in flight together; answers three times as
slow as at their best take off a tenth, since the slowness may be this machine's own. A Retry-After holds back every request
to the endpoint, not only the one that was told.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from statistics import median

FIRST_WINDOW = 8
SLOW = 3.0
"""Median latency over that of the best window, from which the endpoint is taken to be congested."""
OVERLOADED, CONGESTED = 0.5, 0.9
"""What the window is multiplied by."""


class Overloaded(Exception):
    """What leaves a slot where the endpoint could not bear the request."""

    retry_after_s: float | None = None


class Limiter:
    """One endpoint's window and rates."""

    def __init__(
        self,
        *,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.most = concurrency
        self.window = float(min(FIRST_WINDOW, concurrency))
        self.in_flight = 0
        self._starting = True
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_request = self._next_token = self._held_until = 0.0
        self._epoch = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._latencies: list[float] = []
        self._best: float | None = None

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Room for one request; waits for the window, the rates and a Retry-After. Learns from how the block ends."""
        await self._acquire()
        try:
            await self._pace()
            epoch, started = self._epoch, self._clock()
            try:
                yield
            except Overloaded as overloaded:
                self.hold(overloaded.retry_after_s or 0.0)
                self._narrow(epoch)
                raise
            self._answered(epoch, self._clock() - started)
        finally:
            self.in_flight -= 1
            self._wake()

    def hold(self, seconds: float) -> None:
        """Send nothing for that long."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    def used(self, tokens: int) -> None:
        """Count an answer's tokens against their rate; it is known only afterwards, so what follows waits."""
        self._next_token = max(self._next_token, self._clock()) + tokens * self._token_s

    async def _acquire(self) -> None:
        if self.in_flight < int(self.window) and not self._waiting:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.in_flight < int(self.window):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    async def _pace(self) -> None:
        now = self._clock()
        mine = max(now, self._next_request)
        self._next_request = mine + self._request_s
        while (wait := max(mine, self._held_until, self._next_token) - self._clock()) > 0:
            await asyncio.sleep(wait)

    def _answered(self, epoch: int, seconds: float) -> None:
        self.window = min(self.most, self.window + (1.0 if self._starting else 1.0 / self.window))
        self._latencies.append(seconds)
        if len(self._latencies) >= max(FIRST_WINDOW, int(self.window)):
            typical = median(self._latencies)
            self._latencies.clear()
            if self._best is not None and typical > SLOW * self._best:
                self._narrow(epoch, CONGESTED)
            self._best = typical if self._best is None else min(self._best, typical)

    def _narrow(self, epoch: int, factor: float = OVERLOADED) -> None:
        if epoch == self._epoch:
            self._epoch += 1
            self._starting = False
            self.window = max(1.0, self.window * factor)

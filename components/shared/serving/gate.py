"""Who may ask the router, how much, and how often."""

import contextlib
import hmac
import time
from collections.abc import Callable, Iterator, Mapping

from fastapi import Request

from components.shared.serving.metrics import Metrics
from components.shared.serving.router_config import LimitsConfig


class Refused(Exception):
    """A request that is not admitted."""

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status, self.reason = status, reason


class Gatekeeper:
    """Who may ask, and how much."""

    def __init__(
        self,
        keys: Mapping[str, str],
        limits: LimitsConfig,
        metrics: Metrics,
        *,
        admin_key: str | None = None,
        anonymous: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`keys` says who, by key."""
        self._keys = {key.encode(): who for key, who in keys.items()}
        self._admin = admin_key.encode() if admin_key else None
        self.limits, self._metrics, self._anonymous, self._clock = limits, metrics, anonymous, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self.in_flight = 0

    def who(self, request: Request) -> str:
        """Who asks. Raises Refused with 401."""
        given = _bearer(request)
        # Every key is compared, each in constant time, so that the time taken tells nothing.
        found = [who for key, who in self._keys.items() if hmac.compare_digest(key, given)]
        if found:
            return found[0]
        if self._anonymous and not given:
            return "anonymous"
        raise Refused(401, "key", "no valid key: send Authorization: Bearer KEY")

    def admin(self, request: Request) -> None:
        """Raise Refused unless the admin key is sent."""
        if self._admin is None:
            raise Refused(403, "admin", "swaps and rollouts are off: start the router with an admin key")
        if not hmac.compare_digest(self._admin, _bearer(request)):
            raise Refused(401, "key", "no valid admin key: send Authorization: Bearer KEY")

    @contextlib.contextmanager
    def admitted(self, who: str) -> Iterator[None]:
        """Count a request in flight. Raises Refused with 429 above a limit."""
        rate, now = self.limits.requests_per_minute / 60, self._clock()
        burst = max(1.0, self.limits.requests_per_minute / 6)
        tokens, since = self._buckets.get(who, (burst, now))
        tokens = min(burst, tokens + (now - since) * rate)
        if tokens < 1:
            raise Refused(429, "rate", f"more than {self.limits.requests_per_minute} requests a minute: slow down")
        self._buckets[who] = (tokens - 1, now)
        if self.in_flight >= self.limits.in_flight:
            raise Refused(429, "in_flight", f"{self.in_flight} requests are being answered: try again")
        self.in_flight += 1
        self._metrics.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.set(self.in_flight)

    async def body(self, request: Request) -> bytes:
        """The body. Raises Refused with 413 as soon as it is too long."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.limits.body_bytes:
                raise Refused(413, "body", f"the body is above {self.limits.body_bytes} bytes: send less")
            parts.append(part)
        return b"".join(parts)


def _bearer(request: Request) -> bytes:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip().encode() if scheme.lower() == "bearer" else b""

"""Which servers may be asked: closed, cooling down after failures in a row, or on trial with one request.

After `max_failures` in a row a server is left alone for `cool_down_s`; then one request tries it, and decides.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from components.shared.contracts.errors import UsageError
from components.shared.serving.srl_model_adapter import Unavailable

MEMORY = 0.05
"""Weight of the latest answer in the availability estimate: about the last 20 count."""


class Health:
    """The state of one server. Not for several threads."""

    def __init__(
        self, *, max_failures: int = 5, cool_down_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ):
        self._max_failures, self._cool_down_s, self._clock = max_failures, cool_down_s, clock
        self._failures = 0
        self._closed_until: float | None = None
        self._on_trial = False
        self.availability = 1.0
        """Estimated chance that a request is answered, in [0, 1]."""

    def fresh(self) -> "Health":
        """A new state with the same settings."""
        return Health(max_failures=self._max_failures, cool_down_s=self._cool_down_s, clock=self._clock)

    @property
    def admits(self) -> bool:
        """Whether a request may be sent now."""
        if self._closed_until is None:
            return True
        return self._clock() >= self._closed_until and not self._on_trial

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """One request: Unavailable and timeouts are failures, an answer or a refusal of the request is a success.

        A request that its caller gave up says nothing.
        """
        trial = self._closed_until is not None
        self._on_trial |= trial
        try:
            yield
        except (Unavailable, TimeoutError):
            self.failed()
            raise
        except UsageError:
            self._succeeded()
            raise
        else:
            self._succeeded()
        finally:
            if trial:
                self._on_trial = False

    def failed(self) -> None:
        """Count a failure; for a stream that broke after it had begun well."""
        self._failures += 1
        self.availability *= 1 - MEMORY
        if self._failures >= self._max_failures:
            self._closed_until = self._clock() + self._cool_down_s

    def _succeeded(self) -> None:
        self._failures, self._closed_until = 0, None
        self.availability += MEMORY * (1 - self.availability)

"""SIGTERM between two updates: the update at work may end, its state is saved, and the process ends with 143.

A machine that is taken away waits 30 to 120 s. An update that takes longer than GRACE_SECONDS is given up: the last
checkpoint stands.
"""

import signal
import threading
from types import FrameType
from typing import Any

from components.shared.contracts.errors import PipelineError

GRACE_SECONDS = 15
"""How long the update at work may take to end; with the saving it must stay below 25 s."""


class Terminated(PipelineError):
    """The process was asked to end and has saved what there was to save."""

    exit_code = 128 + signal.SIGTERM


class Termination:
    """Notes a SIGTERM instead of dying of it."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Take SIGTERM over; signals reach the main thread alone, so elsewhere nothing is taken over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {
                signal.SIGTERM: signal.signal(signal.SIGTERM, self._note),
                signal.SIGALRM: signal.signal(signal.SIGALRM, self._give_up),
            }

    def met(self) -> None:
        """The update at work has ended: from here on nothing is given up."""
        signal.alarm(0)

    def ignore(self) -> None:
        """Hand the signals back."""
        if self._before:
            signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, *_: int | FrameType | None) -> None:
        self.requested = True
        signal.alarm(GRACE_SECONDS)

    @staticmethod
    def _give_up(*_: int | FrameType | None) -> None:
        raise Terminated(
            f"stopped by SIGTERM, and no update ended within {GRACE_SECONDS} s: the newest checkpoint stands"
        )

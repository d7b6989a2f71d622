"""Every served request becomes a `Trace`, redacted: what the trace collector reads for distillation.

traces-000001.jsonl, traces-000002.jsonl, ...: a writer never continues another's file, so a line that a crash cut short is
the last of its file. A writer holds a lock on the file that it appends to; one that nobody holds is complete.
"""

import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from components.shared.contracts.records import Scenario, Tier, Trace
from components.shared.serving.redaction import redact

FILES = "traces-*.jsonl"
Scorer = Callable[[Scenario, str], float]
"""The score in [0, 1] of an answer to a scenario."""


class TraceWriter:
    """Appends traces to a folder. A trace is on disk when `write` returns."""

    def __init__(
        self, folder: Path, *, max_lines: int = 100_000, max_age_s: float = 3600.0, scorer: Scorer | None = None
    ):
        """A file is complete after `max_lines`, or `max_age_s` after its first trace."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_lines, self._max_age_s = folder, max_lines, max_age_s
        self._scorer = scorer
        self._turn = threading.Lock()
        self._file: TextIO | None = None

    def write(
        self,
        *,
        model_type: str,
        tier: Tier,
        policy: str,
        prompt: str,
        completion: str,
        latency_ms: float,
        scenario: Scenario | None = None,
        request_id: str | None = None,
    ) -> Trace:
        """Redact, score where the scenario is known, and append."""
        score = self._scorer(scenario, completion) if scenario and self._scorer else None
        trace = Trace(
            id=request_id or uuid4().hex,
            scenario=_unless_personal(scenario),
            model_type=model_type,
            tier=tier,
            policy=policy,
            prompt=redact(prompt),
            completion=redact(completion),
            score=score,
            latency_ms=latency_ms,
        )
        with self._turn:
            self._close_if_due()
            file = self._file or self._open()
            file.write(trace.model_dump_json() + "\n")
            file.flush()
            self._lines += 1
        return trace

    def complete(self) -> list[Path]:
        """The files that nobody appends to any more, oldest first. May be called from any thread."""
        with self._turn:
            self._close_if_due()
        return [path for path in sorted(self._folder.glob(FILES)) if path.stat().st_size and not _held(path)]

    def close(self) -> None:
        with self._turn:
            self._close()

    def _close_if_due(self) -> None:
        if self._file and (self._lines >= self._max_lines or time.monotonic() - self._opened > self._max_age_s):
            self._close()

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO:
        numbers = [int(path.stem.removeprefix("traces-")) for path in self._folder.glob(FILES)]
        path = self._folder / f"traces-{max(numbers, default=0) + 1:06d}.jsonl"
        self._file = path.open("x", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._lines, self._opened = 0, time.monotonic()
        return self._file


def _held(path: Path) -> bool:
    """Whether a writer, in whatever process, has the file open."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _unless_personal(scenario: Scenario | None) -> Scenario | None:
    """A scenario's id is its content's hash, so one that holds personal data is left out whole."""
    if scenario is None or redact(text := scenario.model_dump_json()) != text:
        return None
    return scenario

"""MLflow beside the run: everything is handed over on a thread of its own, and a failure there never fails a run.

Every call is first written to the run's spool, RUNS/RUN_ID/tracking.jsonl, one JSON line each with its time. The spool goes
once MLflow has taken all of it; what it did not take is handed over in order by the next run that is started or resumed
beside it, or by `srl-rlvr track`. A call may be made again without being there twice, so a spool is replayed from its start.
"""

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Outcome
from components.shared.performance.mlflow_sink import MlflowSink
from components.shared.storage.artifacts import MANIFEST
from pipelines.engines.run_folder import RunFolder, all_runs

EXPERIMENT = "srl-rlvr"
SPOOL = "tracking.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What became of one run's spool."""

    run_id: str
    calls: int
    """Calls that MLflow took."""
    failure: str | None = None
    """Why it did not take all of them, or what was no longer there to hand over; none where nothing is missing."""


class BackgroundTracking:
    """A sink whose calls return at once and are made in order; after the first failure they are spooled alone."""

    def __init__(self, sink: MlflowSink, folder: RunFolder):
        """Spools of other runs beside `folder` are handed over first."""
        self.failure: str | None = None
        self._sink, self._folder = sink, folder
        self._spool = folder.path / SPOOL
        self._calls: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def start_run(self, run_id: str, tags: dict[str, str], params: dict[str, JsonValue]) -> None:
        self._add({"call": "start_run", "run_id": run_id, "tags": tags, "params": params})

    def log_stage(self, task: str, report: Path, seconds: float | None) -> None:
        place = os.path.relpath(report.resolve(), self._folder.runs.resolve())
        self._add({"call": "log_stage", "task": task, "report": place, "seconds": seconds})

    def finish(self, outcome: Outcome) -> None:
        self._add({"call": "finish", "outcome": outcome})

    def close(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for what is queued; says what failed, if anything."""
        self._calls.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"MLflow did not answer within {timeout:.0f} s"
        if self.failure is None:
            self._spool.unlink(missing_ok=True)
        return self.failure

    def _add(self, call: dict[str, Any]) -> None:
        call = {**call, "at_ms": time.time_ns() // 1_000_000}
        with self._spool.open("a", encoding="utf-8") as file:
            file.write(json.dumps(call, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._calls.put(call)

    def _work(self) -> None:
        runs, uri = self._folder.runs, self._folder.state.tracking_uri
        with contextlib.suppress(Exception):
            # Another run's leftovers are no reason to report this one as failed.
            list(replay(runs, uri, self._folder.state.run_id))
        while (call := self._calls.get()) is not None:
            if self.failure is None:
                try:
                    make(self._sink, runs, call)
                except Exception as error:
                    self.failure = told(error)


def replay(runs: Path, uri: str | None = None, but: str | None = None) -> Iterator[Replayed]:
    """Hand over what earlier runs spooled for the store `uri` (or any), oldest run first; run `but` is left out.

    A run that is at work is left to its own process. Ends at the first store that does not answer: the rest stays spooled.
    """
    for folder in sorted(all_runs(runs), key=lambda folder: folder.state.started):
        if (
            folder.state.run_id == but
            or not (folder.path / SPOOL).is_file()
            or uri not in (None, folder.state.tracking_uri)
        ):
            continue
        try:
            with folder.locked():
                found = _replay(folder)
        except UsageError:
            continue
        yield found
        if found.failure and (folder.path / SPOOL).is_file():
            return


def _replay(folder: RunFolder) -> Replayed:
    sink, made, gone = MlflowSink(folder.state.tracking_uri, EXPERIMENT), 0, []
    for call in spooled(folder.path / SPOOL):
        if call["call"] == "log_stage" and not (folder.runs / call["report"] / MANIFEST).is_file():
            gone.append(call["task"])
            continue
        try:
            make(sink, folder.runs, call)
        except Exception as error:
            return Replayed(run_id=folder.state.run_id, calls=made, failure=told(error))
        made += 1
    (folder.path / SPOOL).unlink()
    failure = f"the reports of {', '.join(gone)} are no longer there" if gone else None
    return Replayed(run_id=folder.state.run_id, calls=made, failure=failure)


def make(sink: MlflowSink, runs: Path, call: dict[str, Any]) -> None:
    """Make a spooled call."""
    at = call["at_ms"]
    if call["call"] == "start_run":
        sink.start_run(call["run_id"], call["tags"], call["params"], at)
    elif call["call"] == "log_stage":
        sink.log_stage(call["task"], runs / call["report"], call["seconds"], at)
    else:
        sink.finish(Outcome(call["outcome"]), at)


def spooled(path: Path) -> Iterator[dict[str, Any]]:
    """The calls of a spool, oldest first. A last line that a crash cut short was never asked for and is left out."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

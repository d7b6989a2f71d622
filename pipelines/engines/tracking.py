"""MLflow beside the run: everything is handed over on a thread of its own, and a failure there never fails a run.

What could not be logged stays in the run's artifacts, from which the next `--resume` logs it again.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from components.shared.contracts.records import Outcome
from components.shared.performance.mlflow_sink import MlflowSink

EXPERIMENT = "srl-rlvr"


class BackgroundTracking:
    """A sink whose calls return at once and are made in order; after the first failure no more are made."""

    def __init__(self, sink: MlflowSink):
        self.failure: str | None = None
        self._sink = sink
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def start_run(self, run_id: str, tags: dict[str, str], params: dict[str, JsonValue]) -> None:
        self._calls.put(lambda: self._sink.start_run(run_id, tags, params))

    def log_stage(self, task: str, report: Path, seconds: float | None) -> None:
        self._calls.put(lambda: self._sink.log_stage(task, report, seconds))

    def finish(self, outcome: Outcome) -> None:
        self._calls.put(lambda: self._sink.finish(outcome))

    def close(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for what is queued; says what failed, if anything."""
        self._calls.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"MLflow did not answer within {timeout:.0f} s"
        return self.failure

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.failure is None:
                try:
                    call()
                except Exception as error:
                    self.failure = " ".join(str(error).split()) or type(error).__name__

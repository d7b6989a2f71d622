"""What a stage measures while it works: curves, samples and progress, into files that a later step can log anywhere.

A trainer in an isolated network can call nobody, so metrics are lines in its report's folder and on standard output; the
engine, or a later step, hands them to MLflow.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from components.shared.contracts.environment import ECHO_METRICS

T = TypeVar("T")
PROGRESS_FILE = "SRL_RLVR_PROGRESS"
"""Environment variable: the file in which the engine looks for the latest progress."""


class PerformanceTracker:
    """Writes metrics.jsonl and samples.jsonl into a report's folder. One object a stage."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._samples = (folder / "samples.jsonl").open("a", encoding="utf-8")
        self._files = {"metrics": self._metrics, "samples": self._samples}

    def state(self) -> dict[str, str]:
        """Everything recorded so far, for a checkpoint."""
        return {name: Path(file.name).read_text(encoding="utf-8") for name, file in self._files.items()}

    def restore(self, state: dict[str, str]) -> None:
        """Go back to what was recorded at a checkpoint; what was recorded since is forgotten."""
        for name, file in self._files.items():
            file.truncate(0)
            file.write(state[name])
            file.flush()

    def log(self, step: int, **values: float) -> None:
        """Record named values at a step. A value that is not finite is an error: nothing trains on quietly past a NaN."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise FloatingPointError(f"step {step}: not finite: {bad}: lower the learning rate or look at the data")
        line = json.dumps({"step": step, **values})
        self._metrics.write(line + "\n")
        self._metrics.flush()
        if ECHO_METRICS in os.environ:
            print(line, flush=True)

    def sample(self, step: int, **fields: JsonValue) -> None:
        """Record one rollout to read: prompt, completion, reward and what else helps."""
        self._samples.write(json.dumps({"step": step, **fields}, ensure_ascii=False) + "\n")
        self._samples.flush()


def progress(items: Iterable[T], what: str | Callable[[], str], total: int | None = None, done: int = 0) -> Iterator[T]:
    """Go through `items` and show how far: a bar on a terminal, the engine's display where one runs, else sparse lines.

    `what` is a name, or a function that says how things stand. `done` of the `total` were gone through before, by a run
    that this one resumes.
    """
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    channel = os.environ.get(PROGRESS_FILE)
    if channel is None and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(items, desc=label(what), total=total, initial=done) as bar:
            for item in bar:
                yield item
                bar.set_description(label(what), refresh=False)
        return
    reported = time.monotonic()
    for done, item in enumerate(items, done + 1):  # noqa: B020
        yield item
        now = time.monotonic()
        if channel is not None and (now - reported > 0.2 or done in (1, total)):
            Path(channel).write_text(json.dumps({"what": label(what), "done": done, "total": total}), encoding="utf-8")
            reported = now
        elif channel is None and (now - reported > 10 or done == total):
            print(f"{label(what)}: {done}/{total}", file=sys.stderr, flush=True)
            reported = now


def label(what: str | Callable[[], str]) -> str:
    return what if isinstance(what, str) else what()

"""What a benchmark hands over: figures, peers', ratios with intervals, targets; and how two ways are compared fairly.

Two ways do the same work in turn (A B, B A, A B ...) in one process, and their CPU seconds are compared, so that neither
a busy machine nor a warm cache favours one. A ratio's interval is Student's over the rounds, of the logarithm.
"""

import gc
import importlib.metadata
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ROUNDS = 7
LIBRARIES = ("torch", "transformers", "trl", "rapidfuzz", "cydifflib")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ratio(Frozen):
    """With its 95 % interval."""

    mean: float
    low: float
    high: float


class Measure(Frozen):
    """One row of the table."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    """None where a figure stands for itself."""
    ratio: Ratio | None = None
    at_least: float | None = None
    """Target of the ratio, or of the figure where there is none."""
    at_most: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`yes` or `no` where the whole interval says so, else `unsure`; empty without a target."""
        if self.at_least is None and self.at_most is None:
            return ""
        ends = (self.ratio.low, self.ratio.high) if self.ratio else (self.ours, self.ours)
        kept = {self._keeps(end) for end in ends}
        return "unsure" if len(kept) > 1 else "yes" if kept == {True} else "no"

    def _keeps(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


class Machine(Frozen):
    """What the figures were measured on."""

    processor: str
    cores: int
    load: float
    """Mean number of processes that wanted a core over the last minute of the benchmark, its own included."""
    python: str
    libraries: dict[str, str]

    @classmethod
    def here(cls) -> "Machine":
        info = Path("/proc/cpuinfo")
        models = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.is_file() else []
        return cls(
            processor=models[0] if models else platform.processor() or platform.machine(),
            cores=os.cpu_count() or 1,
            load=round(os.getloadavg()[0], 1),
            python=platform.python_version(),
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        )


class Result(Frozen):
    """What a benchmark found."""

    measures: Annotated[tuple[Measure, ...], Field(min_length=1)]
    machine: Machine


def publish(*measures: Measure) -> int:
    """Print the measures for people and, on the last line, the result for the driver; returns the exit code.

    1 where a target is missed.
    """
    for measure in measures:
        print(shown(measure))
    print(Result(measures=measures, machine=Machine.here()).model_dump_json(), flush=True)
    return int(any(m.verdict == "no" for m in measures))


def shown(m: Measure) -> str:
    peer = f", {m.peer_name} {m.peer:.4g}" if m.peer is not None else ""
    ratio = f", ratio {m.ratio.mean:.3g} [{m.ratio.low:.3g}, {m.ratio.high:.3g}]" if m.ratio else ""
    return f"{m.name}: {m.ours:.4g}{peer} {m.unit}{ratio}{target(m, ', target {}, met: {}')}"


def target(m: Measure, form: str) -> str:
    """The measure's target and verdict in `form`, or nothing."""
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", m.at_least), ("<=", m.at_most)) if bound is not None]
    return form.format(" and ".join(bounds), m.verdict) if bounds else ""


def cpu_seconds(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """CPU seconds of each way in each round, after one round that warms up; every second round in reverse."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            gc.collect()
            began = time.process_time()
            ways[name]()
            if number:
                found[name].append(time.process_time() - began)
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """above / below of paired rounds: the geometric mean, with Student's interval of its logarithm."""
    from scipy import stats

    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    mean = math.fsum(logs) / len(logs)
    spread = stats.sem(logs) * stats.t.ppf(0.975, len(logs) - 1) if len(logs) > 1 else math.inf
    return Ratio(mean=math.exp(mean), low=math.exp(mean - spread), high=math.exp(mean + spread))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def read_result(output: str) -> Result | None:
    """The result on the last line of a benchmark's output, or none where it did not get that far."""
    lines = output.strip().splitlines()
    try:
        return Result.model_validate(json.loads(lines[-1])) if lines else None
    except ValueError:
        return None

"""What a run left in its folder, read for people: reports, curves, rollouts and where everything came from.

Nothing is computed anew; what a stage did not write is absent.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.stage import Report
from components.shared.storage.artifacts import Manifest, read_manifest
from pipelines.engines.run_folder import RunFolder, RunState, TaskState
from pipelines.results import reports

ABOUT = frozenset(
    {"step", "prompt", "completion", "reward", "gate", "score", "accepted", "attempt", "reasons", "faults"}
)
"""Keys of a sample that are no policy's answer; any other key is a role, its value what that role answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One measure over a stage's steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One prompt with what was answered to it."""

    prompt: str
    answers: tuple[tuple[str, str], ...]
    """Role and text."""
    score: float | None
    """Reward or verdict, in [0, 1], where the stage recorded one."""
    faults: tuple[str, ...]
    good: bool
    """Accepted, without a fault, or fully rewarded: whichever the stage recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFacts:
    """One task: how it went, and what it reported where it finished."""

    name: str
    state: TaskState
    report: Report | None = None
    metadata: Mapping[str, Any]
    """Stage, configuration and input digests, from its report's manifest."""
    outputs: Mapping[str, str]
    """Digests by output."""
    curves: tuple[Curve, ...] = ()
    rollouts: tuple[Rollout, ...] = ()

    @property
    def config(self) -> Mapping[str, JsonValue]:
        return self.metadata.get("config", {})

    @property
    def inputs(self) -> Mapping[str, str]:
        """Digests by input."""
        return self.metadata.get("inputs", {})

    @property
    def details(self) -> Mapping[str, Any]:
        return self.report.details if self.report else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One run."""

    state: RunState
    status: str
    tasks: tuple[TaskFacts, ...]
    """In the order in which data flows."""

    def of_stage(self, stage: str) -> list[TaskFacts]:
        """The finished tasks of a stage."""
        return [task for task in self.tasks if task.state.stage == stage and task.report]

    @property
    def makers(self) -> dict[str, str]:
        """The task that made each artifact, by digest."""
        return {digest: task.name for task in self.tasks for digest in task.outputs.values()}


def read_run(folder: RunFolder) -> RunFacts:
    """The run's facts. Raises CorruptArtifact where a report is malformed."""
    finished = {name: _finished(folder, name, task, report) for name, task, report in reports(folder)}
    tasks = [
        finished.get(name) or TaskFacts(name=name, state=task, metadata={}, outputs={})
        for name, task in folder.state.tasks.items()
    ]
    return RunFacts(state=folder.state, status=folder.status, tasks=tuple(tasks))


def _finished(folder: RunFolder, name: str, task: TaskState, report: Report) -> TaskFacts:
    manifests: dict[str, Manifest] = {key: read_manifest(folder.runs / path) for key, path in task.outputs.items()}
    place = folder.runs / task.outputs["report"]
    return TaskFacts(
        name=name,
        state=task,
        report=report,
        metadata=manifests["report"].metadata,
        outputs={key: manifest.digest for key, manifest in manifests.items()},
        curves=tuple(read_curves(place / "metrics.jsonl")),
        rollouts=tuple(read_rollouts(place / "samples.jsonl")),
    )


def read_curves(path: Path) -> Iterator[Curve]:
    """A curve for each measure, in the order of first use."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in _lines(path):
        step = line.pop("step")
        for name, value in line.items():
            points.setdefault(name, []).append((step, float(value)))
    for name, found in points.items():
        steps, values = zip(*found, strict=True)
        yield Curve(name=name, steps=steps, values=values)


def read_rollouts(path: Path) -> Iterator[Rollout]:
    """The samples that hold an answer; records refused before training are no rollouts."""
    for line in _lines(path):
        roles = {key: str(value) for key, value in line.items() if key not in ABOUT}
        answers = roles if "faults" in line else {"answer": line["completion"]} if line.get("completion") else {}
        if not answers or "prompt" not in line:
            continue
        faults = [*line.get("faults", ()), *line.get("reasons", ()), *([line["gate"]] if line.get("gate") else ())]
        score = line.get("reward", line.get("score"))
        yield Rollout(
            prompt=line["prompt"],
            answers=tuple(answers.items()),
            score=score,
            faults=tuple(faults),
            good=line.get("accepted", not faults and score in (None, 1.0)),
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file; none where there is no file. Raises CorruptArtifact for a line that is none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorruptArtifact(f"{path}:{number} is no JSON: run the stage again") from error
            yield found

"""One run's folder: its state, its logs, and links to its artifacts.

RUNS/RUN_ID/run.json               the state, written whole at every change
RUNS/RUN_ID/logs/TASK.log          what a stage printed
RUNS/RUN_ID/artifacts/TASK/OUTPUT  links into the store
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import JsonValue, ValidationError

from components.shared.contracts.errors import CorruptArtifact, UsageError, unknown
from components.shared.contracts.records import Outcome, Record, Tier
from components.shared.storage.artifacts import write_text

STATE, LOCK = "run.json", "lock"
RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,119}", re.ASCII)


class TaskStatus(StrEnum):
    """Where a task of a run stands."""

    PENDING = "pending"
    WAITING = "waiting"
    """Another process is at work on the very same stage."""
    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    FAILED = "failed"
    STOPPED = "stopped"
    """Interrupted at work; its outputs were not written."""
    SKIPPED = "skipped"
    """Behind a gate that stayed shut."""


class TaskState(Record):
    """One task of a run."""

    stage: str
    after: tuple[str, ...] = ()
    """Tasks that it waits for."""
    status: TaskStatus = TaskStatus.PENDING
    started: datetime | None = None
    seconds: float | None = None
    """Wall time of the stage's process; of an earlier run's where it is cached."""
    cpu_seconds: float | None = None
    peak_mib: float | None = None
    """Largest resident set of the stage's process, in MiB."""
    overhead_seconds: float | None = None
    """Wall time that the engine itself added."""
    key: str | None = None
    miss: str | None = None
    """Why the stage had to run: which part of its key differs from the nearest earlier run."""
    job: str | None = None
    """The job that ran it, where an engine has jobs: its ARN."""
    instance: str | None = None
    """Type of the job's machines, where it had machines of its own."""
    instance_count: int = 1
    machine_seconds: float | None = None
    """How long the job had them."""
    billed_seconds: float | None = None
    """How long of that is billed: less where they were Spot."""
    outputs: dict[str, str] = {}
    """Folders of the outputs, relative to the folder of runs."""
    error: str | None = None


class RunState(Record):
    """One run, as run.json holds it."""

    run_id: str
    dag: str
    engine: str = "local"
    """Which engine runs it: local, docker, sagemaker-local or sagemaker."""
    execution: str | None = None
    """What the engine calls the execution: on SageMaker, its ARN."""
    environment: str
    tier: Tier
    assignments: tuple[str, ...] = ()
    """What `--set` said."""
    parameters: dict[str, JsonValue] = {}
    """The pipeline's parameters as passed."""
    execution_key: str | None = None
    """Identity of what is executed, whichever champion it is measured against."""
    tracking_uri: str
    started: datetime
    finished: datetime | None = None
    outcome: Outcome | None = None
    tasks: dict[str, TaskState] = {}
    """In the order in which data flows."""


class RunFolder:
    """A run's folder with its state; every change of the state is on disk before the call returns."""

    def __init__(self, path: Path, state: RunState, on_change: Callable[[str, TaskState], None] | None = None):
        self.path = path
        self.state = state
        self.on_change = on_change

    @classmethod
    def create(cls, runs: Path, state: RunState) -> "RunFolder":
        """A new run. Raises UsageError where one of that id exists, or where it is no name for a folder."""
        if not RUN_ID.fullmatch(state.run_id):
            raise UsageError(f"run id {state.run_id!r}: use letters, digits, dots, dashes and underscores")
        path = runs / state.run_id
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(f"run {state.run_id!r} exists: --resume it, or pass another --run-id") from None
        folder = cls(path, state)
        folder.change()
        return folder

    @classmethod
    def open(cls, runs: Path, run_id: str) -> "RunFolder":
        """An existing run. Raises UsageError with the nearest id for an unknown one."""
        path = runs / run_id
        if not (path / STATE).is_file():
            raise unknown("run", run_id, run_ids(runs))
        try:
            return cls(path, RunState.model_validate_json((path / STATE).read_bytes()))
        except ValidationError as error:
            raise CorruptArtifact(f"{path / STATE} is malformed: delete the run's folder, or start it again") from error

    @property
    def runs(self) -> Path:
        return self.path.parent

    def log(self, task: str) -> Path:
        return self.path / "logs" / f"{task}.log"

    def artifact(self, task: str, output: str) -> Path:
        return self.path / "artifacts" / task / output

    def progress(self, task: str) -> Path:
        """Where the running stage says how far it is."""
        return self.path / "progress" / f"{task}.json"

    def change(self, **fields) -> None:
        self.state = self.state.model_copy(update=fields)
        write_text(self.path / STATE, self.state.model_dump_json(indent=1) + "\n")

    def change_task(self, name: str, **fields) -> None:
        task = self.state.tasks[name].model_copy(update=fields)
        self.change(tasks={**self.state.tasks, name: task})
        if self.on_change:
            self.on_change(name, task)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run. Raises UsageError where another process holds it; the kernel frees a dead process's lock."""
        with (self.path / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"run {self.state.run_id!r} is at work in another process: wait for it, or srl-rlvr stop it"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    @property
    def holder(self) -> int | None:
        """The process that is at work on the run; none where none is."""
        try:
            with self.locked():
                return None
        except UsageError:
            return int((self.path / LOCK).read_text(encoding="utf-8"))

    @property
    def status(self) -> str:
        """How the run stands: its outcome, `running`, or `interrupted` where nobody is at work on it any more."""
        if self.state.outcome is not None:
            return self.state.outcome
        # An execution elsewhere goes on whether or not it is followed.
        return "running" if self.state.execution or self.holder else "interrupted"


def run_ids(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob(f"*/{STATE}"))


def all_runs(runs: Path) -> list["RunFolder"]:
    """Every run, latest first."""
    return sorted((RunFolder.open(runs, name) for name in run_ids(runs)), key=lambda f: f.state.started, reverse=True)


def new_run_id(dag: str, model_type: str) -> str:
    """DAG-MODELTYPE-YYYYMMDD-HHMMSS, in UTC."""
    return f"{dag}-{model_type}-{datetime.now(UTC):%Y%m%d-%H%M%S}"

"""A stage's process: run it into a log, measure it, stop it when this process is interrupted, and say why it failed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.shared.contracts.environment import REQUEST_CACHE
from components.shared.contracts.stage import StageConfig, StageSpec

GRACE_SECONDS = 30
"""How long a stage may take to stop after SIGTERM: the update that it is at, and the save after it."""
Measured = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageJob:
    """One stage to run, wherever."""

    spec: StageSpec
    config: StageConfig
    key: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """What the engine tells the stage."""
    log: Path
    reads: tuple[Path, ...]
    """Folders that it reads."""
    writes: tuple[Path, ...]
    """Folders that it writes into."""
    lock: int
    """File descriptor that a child should inherit."""


class Runner(Protocol):
    """Where stages run."""

    def key_parts(self, image: str, parts: dict[str, str]) -> dict[str, str]:
        """What a stage's outputs follow from, given what they follow from on this machine."""
        ...

    def run(self, job: StageJob) -> tuple[int, Measured]:
        """Run a stage to its end; returns its exit code (negative: a signal) and its cost."""
        ...


@dataclass(frozen=True, kw_only=True)
class Subprocesses:
    """Stages as subprocesses of this very Python."""

    cache: Path | None = None
    """Folder in which answers of paid endpoints outlive a run; none for wherever the user's environment says."""

    def key_parts(self, image: str, parts: dict[str, str]) -> dict[str, str]:
        return parts

    def run(self, job: StageJob) -> tuple[int, Measured]:
        command = [sys.executable if part == "python" else part for part in job.command]
        kept = {REQUEST_CACHE: str(self.cache.resolve() / "requests.sqlite")} if self.cache else {}
        return run_logged(command, job.log, {**kept, **os.environ, **job.environment}, pass_fds=(job.lock,))


def run_logged(
    command: Sequence[str], log: Path, environment: Mapping[str, str], pass_fds: tuple[int, ...] = ()
) -> tuple[int, Measured]:
    """Run a command to its end, its output appended to `log`; returns its exit code (negative: a signal) and its cost."""
    began = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            pass_fds=pass_fds,
        )
        with stopped_on_interrupt(process):
            _, wait_status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(wait_status)
    return process.returncode, {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


@contextlib.contextmanager
def stopped_on_interrupt(process: subprocess.Popen) -> Iterator[None]:
    """Stop the process with everything it started, gently first, when this process is interrupted."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise


def cause(returncode: int, log: Path) -> str:
    """Why a stage failed, in one line: the last error that it printed, or the signal that ended it."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"ended by {name}" + (": probably out of memory" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {returncode}"])[-1].removeprefix("error: ")

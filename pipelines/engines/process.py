"""A stage's process: run it into a log, measure it, stop it when this process is interrupted, and say why it failed."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 10
"""How long a stage may take to stop after SIGTERM."""
Measured = dict[str, float]


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

"""What a person sees while a run is at work: a line a stage. On a terminal it lives, elsewhere lines are added."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.engines.run_folder import RunFolder, TaskState, TaskStatus

MARKS = {
    TaskStatus.PENDING: ("·", "dim"),
    TaskStatus.WAITING: ("…", "yellow"),
    TaskStatus.RUNNING: ("▶", "cyan"),
    TaskStatus.DONE: ("✓", "green"),
    TaskStatus.CACHED: ("✓", "green"),
    TaskStatus.FAILED: ("✗", "red"),
    TaskStatus.STOPPED: ("✗", "yellow"),
    TaskStatus.SKIPPED: ("-", "dim"),
}
BAR_WIDTH = 24


@contextmanager
def display(folder: RunFolder, console: Console, explain: bool) -> Iterator[None]:
    """Show the run while the block is at work. `explain` says of each stage that runs why it was not cached."""
    if console.is_terminal:
        view = LiveView(folder, explain)
        with Live(view, console=console, refresh_per_second=5, redirect_stdout=False, redirect_stderr=False):
            yield
        return
    folder.on_change = Lines(console, explain)
    yield


class LiveView:
    """Rendered anew at each refresh from the run's latest state."""

    def __init__(self, folder: RunFolder, explain: bool):
        self._folder = folder
        self._explain = explain

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        notes = []
        for name, task in self._folder.state.tasks.items():
            mark, style = MARKS[task.status]
            table.add_row(Text(mark, style), Text(name, style), self._bar(name, task), Text(elapsed(task), "dim"))
            if self._explain and task.miss and task.status != TaskStatus.CACHED:
                notes.append(Text(f"{name}: {task.miss}", "dim"))
        return Group(table, *notes)

    def _bar(self, name: str, task: TaskState) -> RenderableType:
        if task.status != TaskStatus.RUNNING:
            return Text(describe(task), "dim")
        what, done, total = read_progress(self._folder, name)
        bar = ProgressBar(total=total or None, completed=done, width=BAR_WIDTH, pulse=not total)
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, Text(f"{what} {done}/{total}" if total else "starting", "dim"))
        return row


class Lines:
    """A line at each change."""

    def __init__(self, console: Console, explain: bool):
        self._console = console
        self._explain = explain

    def __call__(self, name: str, task: TaskState) -> None:
        if task.status in (TaskStatus.PENDING, TaskStatus.SKIPPED):
            return
        why = f" ({task.miss})" if self._explain and task.miss and task.status == TaskStatus.RUNNING else ""
        took = f" in {task.seconds:.1f} s" if task.seconds is not None and task.status == TaskStatus.DONE else ""
        text = f"{datetime.now(UTC):%H:%M:%S} {name}: {task.status}{took}{why}"
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def read_progress(folder: RunFolder, task: str) -> tuple[str, int, int]:
    """What the running stage is at, how far and of how much; zeros before it says anything."""
    try:
        found = json.loads(folder.progress(task).read_text(encoding="utf-8"))
        return str(found["what"]), int(found["done"]), int(found["total"])
    except (OSError, ValueError, KeyError, TypeError):
        # The stage may be writing it at this very moment.
        return "", 0, 0


def describe(task: TaskState) -> str:
    """A task that is not running, in a word."""
    if task.status == TaskStatus.FAILED:
        return task.error or "failed"
    return {TaskStatus.CACHED: "cached", TaskStatus.WAITING: "another process is at work on it"}.get(task.status, "")


def elapsed(task: TaskState) -> str:
    if task.status == TaskStatus.RUNNING and task.started:
        return clock(time.time() - task.started.timestamp())
    return clock(task.seconds) if task.seconds is not None and task.status == TaskStatus.DONE else ""


def clock(seconds: float) -> str:
    """Seconds as people read them: 4.2 s, 1:15, 2:03:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

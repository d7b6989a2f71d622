"""kill -9 at random moments and at every write: nothing is lost, nothing comes twice, nothing recorded is asked again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from components.shared.collaboration.request_cache import RequestCache
from components.shared.contracts.records import Split
from components.shared.storage.artifacts import file_digest, verify

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
WHOLE = os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole"
CONCURRENCY = 2
IN_WORK = 2 * CONCURRENCY
COUNTS = {"train": 14, "validation": 2, "test": 2}
KILLS = 300 if WHOLE else 3
BOUNDARY_STRIDE = 1 if WHOLE else 50


def stand_in_class():
    spec = spec_from_file_location("teacher_stand_in", HERE.parent / "shared/collaboration/teacher_stand_in.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TeacherStandIn


@pytest.fixture(scope="module")
def server():
    counts = {Split(name): count for name, count in COUNTS.items()}
    with stand_in_class()("npc_dialogue", counts, latency_s=0.01, fault_every=7).running() as running:
        yield running


@dataclass
class Stage:
    """The process that forks a stage for each run."""

    process: subprocess.Popen
    config: dict

    def run(self, folder: Path, kill_at: int | None = None, kill_after: float | None = None) -> int:
        """The exit status; -9 where it was killed."""
        order = {"config": self.config, "folder": str(folder), "kill_at": kill_at, "kill_after": kill_after}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def stage(server):
    teacher = {"kind": "openai", "base_url": server.url, "model": "m", "key_variable": None, "concurrency": CONCURRENCY}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SRL_RLVR_PROGRESS": os.devnull}
    process = subprocess.Popen(
        [sys.executable, HERE / "forking_stage.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield Stage(process, {"counts": {**COUNTS, "practice": 0}, "teacher": teacher})
    process.stdin.close()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def undisturbed(stage, tmp_path_factory):
    """A run that nobody kills: how long it takes, its write boundaries, and what comes out."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert stage.run(folder) == 0
    seconds = time.monotonic() - started
    return seconds, int((folder / "boundaries").read_text()), digests(folder)


def digests(folder: Path) -> dict[str, str]:
    verify(folder / "trajectories")
    verify(folder / "report")
    return {p.name: file_digest(p) for p in sorted((folder / "trajectories").glob("*.jsonl"))}


def recorded(folder: Path) -> set[str]:
    file = folder / "requests.sqlite"
    return RequestCache(file).answered() if file.exists() else set()


@dataclass
class Series:
    """Runs over one folder, each of which starts where the one before was killed."""

    stage: Stage
    server: object
    folder: Path
    asked_last: frozenset[str] = frozenset()

    def run(self, **kill) -> int:
        """One run, which must ask for nothing that is recorded, and again only for what was in flight at the kill."""
        known, before = recorded(self.folder), len(self.server.asked)
        status = self.stage.run(self.folder, **kill)
        asked = frozenset(self.server.asked[before:])
        assert not known & asked
        assert len(self.asked_last & asked) <= IN_WORK
        self.asked_last = asked
        return status

    def finish(self, expected: dict[str, str]) -> None:
        """The next run ends the work, and its output is what it would have been."""
        assert self.run() == 0
        assert digests(self.folder) == expected
        assert len(recorded(self.folder)) >= COUNTS["train"]


@pytest.mark.slow
@pytest.mark.timeout(3600 if WHOLE else 300)
def test_a_kill_at_any_write_loses_nothing_and_repeats_nothing(stage, server, undisturbed, tmp_path):
    _, boundaries, expected = undisturbed
    first = random.Random(3).randrange(1, BOUNDARY_STRIDE + 1)
    for kill_at in range(first, boundaries, BOUNDARY_STRIDE):
        folder = tmp_path / f"at-{kill_at}"
        folder.mkdir()
        series = Series(stage, server, folder)
        assert series.run(kill_at=kill_at) in (-signal.SIGKILL, 0)
        series.finish(expected)


@pytest.mark.slow
@pytest.mark.timeout(3600 if WHOLE else 300)
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(stage, server, undisturbed, tmp_path):
    seconds, _, expected = undisturbed
    rng = random.Random(4)
    kills = 0
    while kills < KILLS:
        folder = tmp_path / f"after-{kills}"
        folder.mkdir(exist_ok=True)
        series = Series(stage, server, folder)
        for _ in range(3):
            kills += series.run(kill_after=rng.uniform(0, seconds)) == -signal.SIGKILL
        series.finish(expected)

"""kill -9 during generation: what is lost, what comes twice, and what is asked for again.

    python -m benchmarks.collaboration.kills [--kills 300] [--stride 1]

A stage of a few scenarios asks a teacher on a socket that also fails, and is killed: once at each write boundary (before and
after each transaction of the record, each flush, each rename), and at random moments, up to three times in a row. Then it is
run once more, undisturbed, and its output is held against that of a run that nobody killed, byte by byte.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from benchmarks.measures import Measure, publish
from components.shared.collaboration.request_cache import RequestCache
from components.shared.contracts.records import Rejected, Split, Trajectory
from components.shared.storage.artifacts import file_digest, verify
from components.shared.storage.jsonl import read_jsonl

PROJECT = Path(__file__).resolve().parents[2]
STAND_IN = PROJECT / "tests/components/shared/collaboration/teacher_stand_in.py"
COUNTS = {"train": 14, "validation": 2, "test": 2}
TAUGHT = COUNTS["train"] + COUNTS["validation"]
CONCURRENCY = 2
IN_WORK = 2 * CONCURRENCY
KILLS = 300
IN_A_ROW = 3


@dataclass
class Damage:
    """What the kills did."""

    kills: int = 0
    lost: int = 0
    """Scenarios that have neither a trajectory nor a place in the quarantine."""
    repeated: int = 0
    """Trajectories that are there more than once."""
    asked_again: int = 0
    """Requests that were sent although their answer was recorded, or again without having been in flight at the kill."""
    differing: int = 0
    """Series whose output is not, to the byte, that of the undisturbed run."""


@dataclass
class Undisturbed:
    """A run that nobody kills."""

    seconds: float
    boundaries: int
    digests: dict[str, str]


@dataclass
class Campaign:
    """One teacher, one process that forks a stage for each run, and the damage so far."""

    server: Any
    process: subprocess.Popen
    folder: Path
    damage: Damage = field(default_factory=Damage)

    def stage(self, folder: Path, kill_at: int | None = None, kill_after: float | None = None) -> int:
        """The exit status; -9 where it was killed."""
        teacher = {"kind": "openai", "base_url": self.server.url, "model": "m", "key_variable": None}
        config = {"counts": {**COUNTS, "practice": 0}, "teacher": {**teacher, "concurrency": CONCURRENCY}}
        order = {"config": config, "folder": str(folder), "kill_at": kill_at, "kill_after": kill_after}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def undisturbed(self) -> Undisturbed:
        self.stage(self._new("first"))  # which waits for the imports: most kills would come too late for the others
        folder = self._new("undisturbed")
        started = time.monotonic()
        if self.stage(folder) != 0:
            raise RuntimeError(f"{folder}: the stage fails by itself: see what it printed")
        return Undisturbed(time.monotonic() - started, int((folder / "boundaries").read_text()), digests(folder))

    def at_boundaries(self, undisturbed: Undisturbed, stride: int) -> None:
        """A kill at every `stride`-th write boundary."""
        for kill_at in range(random.Random(3).randrange(1, stride + 1), undisturbed.boundaries + 1, stride):
            self.series(f"at-{kill_at}", [{"kill_at": kill_at}], undisturbed)

    def at_moments(self, undisturbed: Undisturbed, kills: int) -> None:
        """At least `kills` kills at random moments."""
        rng, wanted = random.Random(4), self.damage.kills + kills
        for number in itertools.count():
            if self.damage.kills >= wanted:
                return
            moments = [{"kill_after": rng.uniform(0, undisturbed.seconds)} for _ in range(IN_A_ROW)]
            self.series(f"after-{number}", moments, undisturbed)

    def series(self, name: str, kills: list[dict[str, Any]], undisturbed: Undisturbed) -> None:
        """Runs over one folder, each of which starts where the one before was killed, and a last one that is not."""
        folder, before = self._new(name), frozenset[str]()
        for kill in [*kills, {}]:
            known, start = recorded(folder), len(self.server.asked)
            status = self.stage(folder, **kill)
            asked = frozenset(self.server.asked[start:])
            self.damage.asked_again += len(known & asked) + max(0, len(before & asked) - IN_WORK)
            before = asked
            self.damage.kills += status == -signal.SIGKILL
            if status not in (0, -signal.SIGKILL) or (not kill and status):
                raise RuntimeError(f"{folder}: exit status {status}: see what the stage printed")
        self.damage.differing += digests(folder) != undisturbed.digests
        self._count(folder / "trajectories")

    def _count(self, output: Path) -> None:
        made = Counter(t.scenario.id for t in read_jsonl(output / "trajectories.jsonl", Trajectory))
        refused = sum(1 for _ in read_jsonl(output / "quarantine.jsonl", Rejected))
        self.damage.lost += max(0, TAUGHT - len(made) - refused)
        self.damage.repeated += made.total() - len(made)

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder


@contextlib.contextmanager
def campaign(folder: Path) -> Iterator[Campaign]:
    """Everything that a campaign in `folder` needs, while the block lasts."""
    counts = {Split(name): count for name, count in COUNTS.items()}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SRL_RLVR_PROGRESS": os.devnull}
    with stand_in_class()("npc_dialogue", counts, latency_s=0.01, fault_every=7).running() as server:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forking_stage.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            yield Campaign(server, process, folder)
        finally:
            process.stdin.close()
            process.wait(timeout=20)


def stand_in_class() -> type:
    spec = spec_from_file_location("teacher_stand_in", STAND_IN)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TeacherStandIn


def digests(folder: Path) -> dict[str, str]:
    verify(folder / "trajectories")
    verify(folder / "report")
    return {p.name: file_digest(p) for p in sorted((folder / "trajectories").glob("*.jsonl"))}


def recorded(folder: Path) -> set[str]:
    file = folder / "requests.sqlite"
    return RequestCache(file).answered() if file.exists() else set()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=KILLS)
    p.add_argument("--stride", type=int, default=1)
    arguments = p.parse_args()
    with tempfile.TemporaryDirectory() as name, campaign(Path(name)) as run:
        undisturbed = run.undisturbed()
        run.at_boundaries(undisturbed, arguments.stride)
        at_writes = run.damage.kills
        run.at_moments(undisturbed, arguments.kills)
    damage = run.damage
    print(damage)
    kills = f"{at_writes} kills at write boundaries, {damage.kills - at_writes} at random moments"
    return publish(
        Measure(name="trajectories lost", unit="", ours=damage.lost, at_most=0, note=kills),
        Measure(name="trajectories that came twice", unit="", ours=damage.repeated, at_most=0),
        Measure(name="recorded responses asked for again", unit="", ours=damage.asked_again, at_most=0),
        Measure(name="outputs that differ from an undisturbed run's", unit="", ours=damage.differing, at_most=0),
    )


if __name__ == "__main__":
    sys.exit(main())

"""Training that a kill at any moment costs some minutes and no bit.

    FOLDER/step-00000120/rank-00000/{state.json, tensors.safetensors, manifest.json}

A checkpoint is copied in memory between two updates and written by a thread while training goes on. Each process writes
its own part, an artifact that appears whole or not at all; the checkpoint counts when the parts of all its processes are
whole, so that no process waits for another and no file system has to be shared. The newest one that counts wins.

The folder belongs to a stage, its configuration and its inputs by their digests: another night's state is never found.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import JsonValue
from safetensors.torch import save_file

from components.shared.contracts.environment import CHECKPOINT_INTERVAL, CHECKPOINT_STEPS, CHECKPOINTS
from components.shared.contracts.errors import CorruptArtifact, PipelineError
from components.shared.contracts.records import content_id
from components.shared.contracts.stage import ArtifactKind, StageConfig, StageSpec
from components.shared.storage.artifacts import MANIFEST, read_manifest, seal, verify, whole, write_text
from components.shared.training.distributed.world import World
from components.shared.training.state_tree import Encoder, decode, only_shards
from components.shared.training.tensor_files import TENSORS, TensorFiles
from components.shared.training.termination import Terminated, Termination
from components.shared.training.training_state import restore_rng, rng_state

State = dict[str, Any]
KEPT = 3
"""Complete checkpoints that stay: two may turn out to be corrupted."""
HALF_AN_HOUR = 1800.0
STATE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint that was found, its tensors still on disk."""

    step: int
    common: State
    """What all processes share."""
    own: State | None
    """What this process alone saved; none where the number of processes has changed since."""


@dataclass(kw_only=True)
class Checkpoints:
    """The checkpoints of one training loop; a context in which SIGTERM saves. Without a folder it does nothing."""

    folder: Path | None
    every_seconds: float = HALF_AN_HOUR
    every_steps: int | None = None
    world: World = field(default_factory=World)
    _writer: threading.Thread | None = None
    _fault: BaseException | None = None
    _saved_at: float = field(default_factory=time.monotonic)
    _last: int | None = None
    """Step of the state that was saved or found last."""
    _termination: Termination = field(default_factory=Termination)

    @classmethod
    def of_stage(
        cls, spec: StageSpec, config: StageConfig, inputs: Mapping[str, Path], world: World, *, part: str = "training"
    ) -> "Checkpoints":
        """The checkpoints of a stage's training loop `part`, below the folder that the engine names, if it names one."""
        environment = os.environ
        folder = None
        if environment.get(CHECKPOINTS):
            digests = {name: read_manifest(path).digest for name, path in inputs.items()}
            identity = content_id(spec.name, config.model_dump(mode="json"), digests)
            folder = Path(environment[CHECKPOINTS]) / f"{spec.name}-{identity}" / part
        steps = environment.get(CHECKPOINT_STEPS)
        return cls(
            folder=folder,
            every_seconds=float(environment.get(CHECKPOINT_INTERVAL, HALF_AN_HOUR)),
            every_steps=int(steps) if steps else None,
            world=world,
        )

    def __enter__(self) -> "Checkpoints":
        if self.folder is not None:
            self._termination.watch()
        self._saved_at = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._termination.ignore()
        self._join()
        if kind is None and self._termination.requested:
            self._stop("the last update")

    def after_step(self, step: int, common: Callable[[], State], own: Callable[[], State] = dict) -> None:
        """Called between two updates with the number of updates done: save where it is time to.

        Raises Terminated, once the state is on disk, where SIGTERM came.
        """
        if self.folder is None:
            return
        asked = self.world.largest(2 if self._termination.requested else int(self._due(step)))
        if asked:
            self.save(step, common, own)
        if asked == 2:
            self._termination.met()
            self.finish()
            self._stop(f"update {step}")

    def save(self, step: int, common: Callable[[], State], own: Callable[[], State] = dict) -> None:
        """Copy the state now and write it while the caller goes on; waits for the save before, if that is still at work.

        `common` gives what is the same on every process but for its shards, `own` what is this process's alone. The state
        of a step that is saved already is not asked for.
        """
        if self.folder is None or step == self._last:
            return
        self._join()
        encoder = Encoder()
        state = {
            "step": step,
            "world": self.world.size,
            "common": encoder.encode(self._mine(common()), "common"),
            "own": encoder.encode({"rng": rng_state(), **own()}, "own"),
            "starts": encoder.starts,
        }
        self._writer = threading.Thread(target=self._write, args=(step, state, encoder.tensors), name="checkpoint")
        self._writer.start()
        self._saved_at, self._last = time.monotonic(), step

    def finish(self) -> None:
        """Wait until the last save is on disk. Raises PipelineError where it could not be written."""
        self._join()

    def newest(self) -> Saved | None:
        """The newest checkpoint that every process finds whole; broken ones are named on standard error.

        What is newer than it is removed, so that parts of two attempts never meet in one checkpoint.
        """
        if self.folder is None:
            return None
        below = sys.maxsize
        while True:
            step = self.world.smallest(max((s for s in self._steps() if s < below), default=-1))
            if step < 0 or self.world.smallest(int(self._is_whole(step))):
                break
            below = step
        self.world.wait()
        if self.world.local_rank == 0:
            for newer in (s for s in self._steps() if s > step):
                shutil.rmtree(self._of(newer), ignore_errors=True)
        self.world.wait()
        if step < 0:
            return None
        self._last = step
        return self._open(step)

    def resume(self) -> Saved | None:
        """`newest`, with this process's generators set to what they were."""
        saved = self.newest()
        if saved is not None and saved.own is not None:
            restore_rng(saved.own["rng"])
        return saved

    def _stop(self, after: str) -> NoReturn:
        """End the process; of several, one says why."""
        if not self.world.main:
            raise SystemExit(Terminated.exit_code)
        raise Terminated(f"stopped by SIGTERM after {after}, which is saved: start it again to go on")

    def _due(self, step: int) -> bool:
        by_step = self.every_steps is not None and step % self.every_steps == 0
        return self.world.main and (by_step or time.monotonic() - self._saved_at >= self.every_seconds)

    def _mine(self, common: Any) -> Any:
        """What this process writes of the common state: all of it on the main one, its shards on the others."""
        return common if self.world.main else only_shards(common)

    def _write(self, step: int, state: dict[str, JsonValue], tensors: dict[str, Any]) -> None:
        try:
            with whole(self._part(step, self.world.rank)) as folder:
                save_file(tensors, folder / TENSORS)
                write_text(folder / STATE, json.dumps(state, allow_nan=False))
                seal(folder, ArtifactKind.CHECKPOINT, {"step": step, "world": self.world.size})
            if self.world.local_rank == 0:
                self._prune()
        except BaseException as error:
            self._fault = error

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        fault, self._fault = self._fault, None
        if fault is not None:
            raise PipelineError(
                f"checkpoint in {self.folder}: {fault}: free its disk, or mend its permissions"
            ) from fault

    def _prune(self) -> None:
        """Remove what is older than the newest KEPT checkpoints that are complete.

        This process's part is the only one that it is sure to see. All begin a save together, and only when the one before
        is written: of the newest, other processes' parts may still be missing, of older ones none is.
        """
        written = [step for step in self._steps() if (self._part(step, self.world.rank) / MANIFEST).is_file()]
        kept = KEPT if self.world.size == 1 else KEPT + 1
        for step in sorted(written)[:-kept]:
            shutil.rmtree(self._of(step), ignore_errors=True)

    def _steps(self) -> list[int]:
        assert self.folder is not None
        return [int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*")]

    def _of(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step-{step:08d}"

    def _part(self, step: int, rank: int) -> Path:
        return self._of(step) / f"rank-{rank:05d}"

    def _parts(self, step: int) -> list[Path]:
        """The parts that a checkpoint must have. Raises CorruptArtifact or PipelineError where the first is not there."""
        size = read_manifest(self._part(step, 0)).metadata.get("world", 0)
        return [self._part(step, rank) for rank in range(int(str(size)))]

    def _is_whole(self, step: int) -> bool:
        """Whether the parts that this process answers for match their manifests and belong together."""
        try:
            parts = self._parts(step)
            for part in parts[self.world.rank :: self.world.size]:
                metadata = verify(part, ArtifactKind.CHECKPOINT).metadata
                if metadata != {"step": step, "world": len(parts)}:
                    raise CorruptArtifact(f"{part} is of another checkpoint: {metadata}")
        except PipelineError as error:
            print(f"checkpoint of update {step} is skipped: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _open(self, step: int) -> Saved:
        parts = self._parts(step)
        states = [json.loads((part / STATE).read_text(encoding="utf-8")) for part in parts]
        files = TensorFiles(parts, [state["starts"] for state in states])
        own = None
        if len(parts) == self.world.size:
            rank = self.world.rank
            own = decode(states[rank]["own"], lambda key, shape: files.stored(key, shape, only=rank))
        common = decode(states[0]["common"], files.stored)
        return Saved(step=step, common=common, own=own)

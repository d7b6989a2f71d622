"""What a training stage is given: verified trajectories, scenarios by split, and the trainer that made them.

A dataset remembers its model type and its world by digest, so that no later stage needs to be told; a trainer is
re-created only over the very same world.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.shared.contracts.errors import CorruptArtifact, PipelineError
from components.shared.contracts.records import Scenario, Split, Trajectory
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.jsonl import read_jsonl
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer

SERVED = "served/"
"""How the teacher's name begins where an answer is not an expert's but what a tier's policy gave: served/TIER/POLICY."""


def origin(trainer: ModelTypeTrainer, world: str) -> dict[str, JsonValue]:
    """What an artifact's metadata says of the trainer behind it; `world` is the folder of configs/worlds/."""
    return {"model_type": trainer.name, "world": world, "world_digest": trainer.world.digest}


def recreate_trainer(metadata: Mapping[str, JsonValue]) -> ModelTypeTrainer:
    """The trainer that `origin` described.

    Raises CorruptArtifact where the metadata says none, and PipelineError where the world has changed since: scenarios
    and verdicts of the old world must not be judged by the new one.
    """
    missing = [key for key in ("model_type", "world", "world_digest") if not isinstance(metadata.get(key), str)]
    if missing:
        raise CorruptArtifact(f"metadata has no {missing[0]}: generate the trajectories again")
    trainer = create_trainer(str(metadata["model_type"]), str(metadata["world"]))
    if trainer.world.digest != metadata["world_digest"]:
        raise PipelineError(
            f"world {metadata['world']!r} has digest {trainer.world.digest[:12]}, the artifact was made from "
            f"{str(metadata['world_digest'])[:12]}: restore that world, or generate the trajectories again"
        )
    return trainer


@dataclass(frozen=True)
class Dataset:
    """A sealed dataset folder, read as often as wanted; every pass gives the same records in the same order."""

    folder: Path
    metadata: Mapping[str, JsonValue]
    trainer: ModelTypeTrainer

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The dataset at `folder`. Raises CorruptArtifact for another kind, PipelineError for a changed world."""
        manifest = read_manifest(folder)
        if manifest.kind != ArtifactKind.DATASET:
            raise CorruptArtifact(f"{folder} holds {manifest.kind}, not a dataset: pass data_validation's output")
        return cls(folder, manifest.metadata, recreate_trainer(manifest.metadata))

    def trajectories(self, split: Split) -> Iterator[Trajectory]:
        """Verified trajectories of TRAIN or VALIDATION; a test scenario has none."""
        return read_jsonl(self.folder / f"{split}.jsonl", Trajectory)

    def scenarios(self, split: Split) -> Iterator[Scenario]:
        """Every scenario of a split, with or without a trajectory."""
        return read_jsonl(self.folder / "scenarios" / f"{split}.jsonl", Scenario)

    @functools.cached_property
    def completions(self) -> tuple[str, ...]:
        """What the experts wrote for the training split."""
        return tuple(self.trainer.completion(t.steps) for t in self.trajectories(Split.TRAIN))

    def served(self) -> dict[str, str]:
        """What policies of other tiers answered to training scenarios, by the scenario's id."""
        return {
            t.scenario.id: self.trainer.completion(t.steps)
            for t in self.trajectories(Split.TRAIN)
            if t.teacher.startswith(SERVED)
        }

    def max_tokens(self, tokenizer: Any) -> int:
        """Room for the longest expert completion of the training split and one end token, in tokens of `tokenizer`."""
        return 1 + max(len(ids) for ids in tokenizer(list(self.completions), add_special_tokens=False)["input_ids"])

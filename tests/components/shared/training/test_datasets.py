import random

import pytest

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal
from components.shared.storage.jsonl import write_jsonl
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import Dataset, origin, recreate_trainer

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


@pytest.fixture(scope="module")
def trainer():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture
def folder(tmp_path, trainer):
    rng = random.Random(0)
    for split in Split:
        scenarios = list(trainer.scenarios(rng, 4, [split]))
        write_jsonl(tmp_path / "scenarios" / f"{split}.jsonl", scenarios)
        answers = [
            trainer.trajectory(s, trainer.demonstrate(s, rng, FLAWLESS), teacher="t", context=(), attempt=1)
            for s in scenarios[:3]
        ]
        if split != Split.TEST:
            write_jsonl(tmp_path / f"{split}.jsonl", answers)
    return tmp_path


def test_a_dataset_gives_its_records_and_their_trainer(folder, trainer):
    seal(folder, ArtifactKind.DATASET, origin(trainer, "wrackmere"))
    dataset = Dataset.open(folder)
    assert type(dataset.trainer) is type(trainer) and dataset.trainer.world.digest == trainer.world.digest
    assert {split: len(list(dataset.scenarios(split))) for split in Split} == dict.fromkeys(Split, 4)
    taught = list(dataset.trajectories(Split.TRAIN))
    assert len(taught) == 3 and all(t.scenario.split == Split.TRAIN for t in taught)
    assert dataset.completions == tuple(trainer.completion(t.steps) for t in taught)


def test_room_is_made_for_the_longest_completion_and_an_end(folder, trainer):
    seal(folder, ArtifactKind.DATASET, origin(trainer, "wrackmere"))
    dataset = Dataset.open(folder)

    def by_letter(texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [list(text) for text in texts]}

    assert dataset.max_tokens(by_letter) == 1 + max(map(len, dataset.completions))


def test_another_kind_of_artifact_is_refused(folder, trainer):
    seal(folder, ArtifactKind.TRAJECTORIES, origin(trainer, "wrackmere"))
    with pytest.raises(CorruptArtifact, match="holds trajectories, not a dataset"):
        Dataset.open(folder)


def test_a_trainer_is_recreated_over_the_same_world_only(trainer):
    metadata = origin(trainer, "wrackmere")
    assert recreate_trainer(metadata).name == "npc_dialogue"
    with pytest.raises(PipelineError, match="restore that world"):
        recreate_trainer({**metadata, "world_digest": "f" * 64})
    with pytest.raises(UsageError, match="unknown world 'elsewhere'"):
        recreate_trainer({**metadata, "world": "elsewhere"})
    with pytest.raises(CorruptArtifact, match="metadata has no model_type"):
        recreate_trainer({})

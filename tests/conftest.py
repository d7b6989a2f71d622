"""Toy objects that several tests share."""

import gc
import inspect
import os
import random
import shutil
import sys
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DISABLE_MLFLOW_INTEGRATION", "TRUE")

import pytest

# What tests import stays: looking it through for garbage at every 700 objects is a fifth of their CPU time.
gc.disable()

TOGETHER = tuple(
    f"tests/{folder}/"
    for folder in ("infrastructure", "step_functions", "pipelines/compilers", "components/shared/training")
)
"""Folders whose files share fixtures that are dear: one worker has all of a folder."""


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker is left alone with one at the end. What is marked `whole` runs
    where campaigns are run whole."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if os.environ.get("SRL_RLVR_CAMPAIGNS") != "whole":
        skip = pytest.mark.skip(reason="the rest of a campaign: make verify runs it")
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, but for the folders that stay together; in the order of the collection."""
    from xdist.scheduler import LoadFileScheduling

    class Folders(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))

    config.option.loadscopereorder = False
    return Folders(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def quick_stack():
    """kfp asks `inspect.stack()` who called it at each setting of a task. That looks up every frame of pytest's in every
    module that is loaded, and beside torch makes compiling take 25 times as long: here it is told the name at once."""
    from kfp.dsl import pipeline_task

    def stack():
        return [None, (None, None, None, sys._getframe(2).f_code.co_name)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(**{**vars(inspect), "stack": stack}))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_migration(tmp_path_factory):
    """MLflow's migrations take seconds: a database that this process makes is a copy of the first, which went through."""
    from components.shared.performance import mlflow_store

    create, first = mlflow_store._create, tmp_path_factory.mktemp("mlflow") / "mlflow.db"

    def copied(file):
        create(first)
        if not file.exists():
            shutil.copy(first, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_store, "_create", copied)
        yield


@pytest.fixture
def tiny_policy():
    """A random Llama of a few thousand parameters over a dozen words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from components.shared.training.policies import Policy

    words = ["<pad>", "<eos>", "<unk>", *["the", "bell", "rings", "at", "dawn", ";", "say", "yes", "no", "="]]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Policy(model=LlamaForCausalLM(config), tokenizer=tokenizer)


@pytest.fixture(scope="session")
def npc_dataset(tmp_path_factory):
    """24 training and 8 validation scenarios, three in four of them with a flawless trajectory, sealed."""
    from components.shared.contracts.records import Split
    from components.shared.contracts.stage import ArtifactKind
    from components.shared.storage.artifacts import seal
    from components.shared.storage.jsonl import write_jsonl
    from components.shared.trainers.base_trainer import Habits
    from components.shared.trainers.trainer_factory import create_trainer
    from components.shared.training.datasets import Dataset, origin

    flawless = Habits(visible=1.0, hidden=1.0, noise=0.0)
    folder = tmp_path_factory.mktemp("npc") / "dataset"
    trainer, rng = create_trainer("npc_dialogue", "wrackmere"), random.Random(0)
    for split, count in ((Split.TRAIN, 24), (Split.VALIDATION, 8), (Split.TEST, 4)):
        scenarios = list(trainer.scenarios(rng, count, [split]))
        write_jsonl(folder / "scenarios" / f"{split}.jsonl", scenarios)
        if split != Split.TEST:
            answers = [
                trainer.trajectory(s, trainer.demonstrate(s, rng, flawless), teacher="t", context=(), attempt=1)
                for s in scenarios[: 3 * count // 4]
            ]
            write_jsonl(folder / f"{split}.jsonl", answers)
    seal(folder, ArtifactKind.DATASET, origin(trainer, "wrackmere"))
    return Dataset.open(folder)


@pytest.fixture(scope="session")
def npc_policy_folder(npc_dataset, tmp_path_factory):
    """Folder of a random Llama of width 16 that knows the words and has seen the trajectories a few times."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from components.shared.contracts.records import Split
    from components.shared.contracts.stage import ArtifactKind
    from components.shared.storage.artifacts import seal
    from components.shared.training.policies import Policy, save_policy
    from components.shared.training.supervised import chosen, collate, completion_logprobs, example, masked_mean

    words = ["<pad>", "<eos>", "<unk>", *sorted(npc_dataset.trainer.vocabulary())]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.1,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    policy = Policy(model=model, tokenizer=tokenizer)
    rows = [
        example(policy, t.scenario.prompt, [s.text for s in t.steps], [1.0] * len(t.steps))
        for t in npc_dataset.trajectories(Split.TRAIN)
    ]
    batch, optimizer = collate(rows, 0), torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(60):
        loss = -masked_mean(chosen(completion_logprobs(model, batch), batch), batch.mask_BC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("npc") / "policy"
    folder.mkdir()
    save_policy(policy, folder)
    seal(folder, ArtifactKind.POLICY, {})
    return folder

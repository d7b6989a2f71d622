"""Supervised steps on packed rows against TRL's SFTTrainer: padded, padded by length, and packed by itself.

    python -m benchmarks.training.supervised

One epoch each, CPU seconds, log-normal row lengths (median 128, at most 512 tokens; the first third of a row is its prompt,
which is not trained on). The learning rate is 0, so that the mean loss over the epoch is the same for whatever order and
packing, which is checked; padded, SFTTrainer takes the rows in our order, and every update's loss and norm of the gradient
are checked. The last row is weighted SRL as the stage runs it: with the reference, the KL to it, the probe and the way back.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from benchmarks.measures import Measure, cpu_seconds, mean, publish, ratio
from benchmarks.training.stand import EOS, PAD, build_model, build_tokenizer, lengths, twin, words
from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Scenario, Split, Step, Trajectory
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.distributed.learner import create_learner
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.world import World
from components.shared.training.packing import lay_out, packing, token_logprobs
from components.shared.training.policies import Policy
from components.shared.training.supervised import Example
from components.shared.training.trl_adapter import common_arguments, train_quietly
from components.srl import srl_trainer
from components.srl.spec import SRLConfig

VOCABULARY, ROWS, BATCH, LONGEST = 2048, 64, 16, 512
SRL_EPOCHS, ROUNDS = 2, 4
TOLERANCE = 1e-4
PEERS = {
    "padded": {"per_device_train_batch_size": BATCH},
    "padded, sorted by length": {"per_device_train_batch_size": BATCH},
    "packed": {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 5},
}
"""SFTTrainer's settings. Off are bf16, activation checkpointing and dropout, which only cost time here. Sorted rows are the
best that `group_by_length` can do. Packed rows come one a micro-batch, since TRL joins those of a micro-batch and a CPU then
masks the square of them all: five at once took 2.2 times as long."""


GOALS = {"padded": {"at_least": 2.0}, "padded, sorted by length": {}, "packed": {"at_least": 1.1}}


class Recorded(SFTTrainer):
    """An SFTTrainer that keeps each micro-batch's mean loss and completion tokens."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tokens = (inputs["labels"][..., 1:] != -100).sum()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total = (result[0] if return_outputs else result).detach() * (num_items_in_batch or tokens)
        self.found.append((total, tokens))
        return result

    @property
    def epoch_loss(self) -> float:
        return float(sum(total for total, _ in self.found) / sum(tokens for _, tokens in self.found))


class Ours:
    """The supervised half of weighted SRL's update: lay out, forward, backward, AdamW."""

    def __init__(self, rows: list[Example], packed: bool):
        self.model, self.rows, self.packed = twin(MODEL), rows, packed
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.learner = create_learner(self.model, Strategy.SINGLE, World(), AdamWSettings(max_grad_norm=1.0))

    def __call__(self) -> None:
        self.losses, self.norms = [], []
        self.model.train()
        with packing(self.model, self.packed):
            for start in range(0, ROWS, BATCH):
                tokens = lay_out(self.rows[start : start + BATCH], PAD, torch.device("cpu"), packed=self.packed)
                logp_TV = token_logprobs(self.model, tokens)
                loss = -logp_TV.gather(-1, tokens.targets_T[:, None]).mean()
                self.norms.append(self.learner.step(loss, 0.0))
                self.losses.append(loss.item())


def rows_of(rng: random.Random) -> list[Example]:
    rows = []
    for length in lengths(rng, ROWS, 128, LONGEST):
        prompt, ids = length // 3, words(rng, VOCABULARY, length - 1)
        completion = [*ids[prompt:], EOS]
        rows.append(Example(prompt_ids=ids[:prompt], completion_ids=completion, weights=[1.0] * len(completion)))
    return rows


def theirs(rows: list[Example], scratch: str, name: str) -> Recorded:
    """A trainer for one epoch; tokens are given, so that nothing is tokenised."""
    if "sorted" in name:
        rows = sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.completion_ids))
    labelled = [
        {
            "input_ids": row.prompt_ids + row.completion_ids,
            "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.completion_ids),
        }
        for row in rows
    ]
    arguments = {**common_arguments(scratch, -1, 0), "num_train_epochs": 1, "train_sampling_strategy": "sequential"}
    return Recorded(
        model=twin(MODEL),
        args=SFTConfig(
            **arguments,
            **PEERS[name],
            max_length=LONGEST,
            learning_rate=0.0,
            weight_decay=0.0,
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(labelled),
        processing_class=TOKENIZER,
    )


class SRL:
    """The stage's own training on the same rows, start to end: reference, KL, probe, undo."""

    def __init__(self, rows: list[Example], folder: Path):
        text = TOKENIZER.batch_decode
        self._rows = [
            trajectory(str(i), *text([row.prompt_ids, row.completion_ids[:-1]])) for i, row in enumerate(rows)
        ]
        self._folder = folder

    def __call__(self) -> None:
        policy, reference = (Policy(model=twin(MODEL), tokenizer=TOKENIZER) for _ in range(2))
        config = SRLConfig(steps=SRL_EPOCHS * ROWS // BATCH, batch_size=BATCH, learning_rate=1e-6)
        probe = self._rows[: BATCH // 2]
        srl_trainer.train(policy, reference, self._rows, probe, config, PerformanceTracker(self._folder))


def trajectory(name: str, prompt: str, text: str) -> Trajectory:
    scenario = Scenario(
        id=name, model_type="toy", group="g", split=Split.TRAIN, prompt=prompt, state={}, difficulty=0.5
    )
    step = Step(index=1, title="say", text=text, action={}, reward=1.0)
    return Trajectory(id=name, scenario=scenario, teacher="toy", context=(), attempt=1, steps=(step,))


MODEL = build_model(VOCABULARY, width=128)
TOKENIZER = build_tokenizer(VOCABULARY)


def main() -> int:
    rows = rows_of(random.Random(0))
    count = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    with tempfile.TemporaryDirectory() as scratch:
        ours, padded = Ours(rows, packed=True), Ours(rows, packed=False)
        update = SRL(rows, Path(scratch) / "srl")
        peers: dict[str, Recorded] = {}

        def train(name: str) -> None:
            train_quietly(peers[name])

        def fresh(name: str) -> None:
            peers[name] = theirs(rows, scratch, name)

        found = timed({"ours": ours, "ours, padded": padded, "srl": update}, fresh, train)
    check(ours, padded, peers)
    measures = [
        row(f"supervised steps, packed, against SFTTrainer {name}", count, found["ours"], found[name], **goals)
        for name, goals in GOALS.items()
    ]
    measures += [
        row("supervised steps, packed, against the same padded", count, found["ours"], found["ours, padded"], "ours"),
        row(
            "weighted SRL whole (KL, probe, undo) against SFTTrainer padded",
            count,
            [seconds / SRL_EPOCHS for seconds in found["srl"]],
            found["padded"],
        ),
    ]
    return publish(*measures)


def timed(ways, fresh, train) -> dict[str, list[float]]:
    """CPU seconds of every way; building a trainer is not timed."""
    peers = {name: (lambda name=name: train(name)) for name in PEERS}
    seconds: dict[str, list[float]] = {}

    def clock(name, work):
        def call():
            if name in PEERS:
                fresh(name)
            began = time.process_time()
            work()
            seconds.setdefault(name, []).append(time.process_time() - began)

        return call

    cpu_seconds({name: clock(name, work) for name, work in {**ways, **peers}.items()}, rounds=ROUNDS)
    return {name: values[1:] for name, values in seconds.items()}


def row(
    name: str, tokens: int, ours: list[float], peer: list[float], peer_name: str = "SFTTrainer", **goals: float
) -> Measure:
    return Measure(
        name=name,
        unit="tokens/s",
        ours=tokens / mean(ours),
        peer=tokens / mean(peer),
        peer_name=peer_name,
        ratio=ratio(peer, ours),
        **goals,
    )


def check(ours: Ours, padded: Ours, peers: dict[str, Recorded]) -> None:
    """Raises where an arm did other work."""
    tokens = [sum(len(r.completion_ids) for r in ours.rows[start : start + BATCH]) for start in range(0, ROWS, BATCH)]
    whole = sum(loss * n for loss, n in zip(ours.losses, tokens, strict=True)) / sum(tokens)
    gaps = {name: abs(peer.epoch_loss - whole) for name, peer in peers.items()}
    logs = [line for line in peers["padded"].state.log_history if "grad_norm" in line]
    gaps["an update's loss"] = max(abs(a["loss"] - b) for a, b in zip(logs, ours.losses, strict=True))
    gaps["a gradient's norm"] = max(abs(a["grad_norm"] - b) for a, b in zip(logs, ours.norms, strict=True))
    gaps["our padded losses"] = max(abs(a - b) for a, b in zip(padded.losses, ours.losses, strict=True))
    print("differences:", {name: f"{gap:.1e}" for name, gap in gaps.items()})
    wrong = {name: gap for name, gap in gaps.items() if gap > TOLERANCE}
    if wrong:
        raise SystemExit(f"not the same work: {wrong}")


if __name__ == "__main__":
    sys.exit(main())

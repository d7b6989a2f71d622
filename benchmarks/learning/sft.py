"""Supervised fine-tuning by TRL's SFTTrainer for so many CPU-seconds: the peer that SRL is compared with.

    python -m benchmarks.learning.sft --dataset DIR --policy DIR --output DIR --report DIR --seconds 90 --seed 1

TRL's own trainer, at the flags that are best on a CPU: float32, no activation checkpointing, rows of like length together,
loss on the completion only. It gets the token rows that SRL gets. The learning rate follows the processor clock, so that
its schedule is whole whatever the budget.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset as Rows
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from components.shared.contracts.records import Split
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.artifacts import seal, whole
from components.shared.training.datasets import Dataset
from components.shared.training.policies import Policy, deterministic, load_policy, save_policy
from components.shared.training.supervised import example
from components.shared.training.trl_adapter import common_arguments, train_quietly

BATCH_SIZE, WARMUP_STEPS = 64, 10
"""As in SRL."""
SAVING_SECONDS = 0.3


class CPUClock(TrainerCallback):
    """Ends training when the process has used its seconds since `began`, and gives the learning rate's factor until then."""

    def __init__(self, seconds: float, began: float):
        self._seconds, self._began = seconds - SAVING_SECONDS, began

    def factor(self, step: int) -> float:
        """Linear warm-up, then linear decay to a tenth over the seconds that the process may use."""
        return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.1, 1 - self._used() / self._seconds)

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = self._used() >= self._seconds

    def _used(self) -> float:
        return time.process_time() - self._began


def rows(policy: Policy, dataset: Dataset) -> Rows:
    """The training trajectories as token rows, the loss on their completions alone."""
    found = [
        example(policy, t.scenario.prompt, [step.text for step in t.steps], [1.0] * len(t.steps))
        for t in dataset.trajectories(Split.TRAIN)
    ]
    return Rows.from_list(
        [
            {
                "input_ids": row.prompt_ids + row.completion_ids,
                "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.completion_ids),
            }
            for row in found
        ]
    )


def train(
    policy: Policy, data: Rows, *, seconds: float, rate: float, seed: int, scratch: str, began: float = 0.0
) -> list[dict]:
    """Train `policy` in place until the process has used `seconds`, counted from `began` on its CPU clock; returns TRL's
    log."""
    clock = CPUClock(seconds, began)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=rate, weight_decay=0.0)
    trainer = SFTTrainer(
        model=policy.model,
        args=SFTConfig(
            **common_arguments(scratch, 10**6, seed) | {"logging_steps": 10},
            per_device_train_batch_size=BATCH_SIZE,
            max_grad_norm=1.0,
            max_length=None,
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        ),
        train_dataset=data,
        processing_class=policy.tokenizer,
        callbacks=[clock],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, clock.factor)),
    )
    train_quietly(trainer)
    return trainer.state.log_history


def main() -> None:
    parser = argparse.ArgumentParser(description="SFT by TRL for so many CPU-seconds.")
    for name in ("dataset", "policy", "output", "report"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    deterministic(options.seed)
    policy = load_policy(options.policy)
    data = rows(policy, Dataset.open(options.dataset))
    with whole(options.report) as report, whole(options.output) as folder:
        log = train(
            policy, data, seconds=options.seconds, rate=options.rate, seed=options.seed, scratch=str(report / "trl")
        )
        tracker = PerformanceTracker(report)
        for line in log:
            if "loss" in line:
                tracker.log(line["step"], nll=line["loss"])
        save_policy(policy, folder)
        seal(folder, ArtifactKind.POLICY, {"stage": "sft"})


if __name__ == "__main__":
    main()

"""Train by reward, as one of several processes or alone.

The completions are drawn from the prompts alone, so that any number of processes trains on the same ones, unless they are
to be sampled.
"""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset as Rows
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import GRPOConfig

from components.shared.contracts.records import Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.spreading import (
    assembled,
    local_bytes,
)
from components.shared.training.distributed.world import joined
from components.shared.training.exact_resume import plain
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import SamplingSettings
from components.shared.training.policies import deterministic, load_policy, save_policy
from components.shared.training.trl_adapter import CurveRecorder, common_arguments, train_quietly

PROMPTS, GROUP = 4, 4


class DrawnOptimizer(PolicyOptimizer):
    """Completions that follow from prompt and place in the group, for any number of processes."""

    def _generate_single_turn(self, prompt_ids, *_, **__):
        drawn = []
        for place, ids in enumerate(prompt_ids):
            rng = random.Random(f"{ids}/{place % GROUP}")
            drawn.append([*(rng.randrange(3, 60) for _ in range(rng.randrange(3, 9))), self._tokenizer.eos_token_id])
        return drawn, None


def train(folder: Path, out: Path, steps: int, sampled: bool) -> None:
    """Writes OUT/metrics.jsonl, OUT/policy and, for each process, OUT/rank-N.json with what it holds."""
    deterministic(0)
    with joined() as world, TemporaryDirectory() as scratch:
        policy = load_policy(folder / "teacher")
        policy.model.name_or_path = policy.model.config._name_or_path = str(folder / "teacher")
        tracker = PerformanceTracker(out if world.main else Path(scratch) / "thrown-away")
        recorder = CurveRecorder(
            tracker, "rlvr", 6, {"loss": "loss", "reward": "reward", "kl": "kl", "grad_norm": "norm"}
        )
        trainer = (PolicyOptimizer if sampled else DrawnOptimizer)(
            model=policy.model,
            reward_funcs=lambda completions, **_: [len(set(text.split())) / 12 for text in completions],
            args=GRPOConfig(
                **common_arguments(scratch, 6, 3),
                per_device_train_batch_size=PROMPTS * GROUP // world.size,
                num_generations=GROUP,
                max_completion_length=10,
                learning_rate=5e-3,
                beta=0.05,
            ),
            train_dataset=Rows.from_list([{"prompt": s.prompt} for s in scenarios(folder)]),
            processing_class=policy.tokenizer,
            callbacks=[recorder],
            sampling=SamplingSettings(rounds=2),
        )
        trainer.resume_with(
            Checkpoints(folder=out.parent / "checkpoints", every_steps=2, world=world),
            {"tracker": tracker, "recorder": recorder},
        )
        if steps < 6:
            trainer.add_callback(StopAt(steps))
        train_quietly(trainer)
        moments = [v for state in plain(trainer.optimizer).state.values() for v in state.values()]
        held = {
            "type": type(trainer.model_wrapped).__name__,
            "parameters": local_bytes(policy.model),
            "moments": sum((v.to_local() if isinstance(v, DTensor) else v).numel() for v in moments),
            "reference": local_bytes(trainer.ref_model),
        }
        (out / f"rank-{world.rank}.json").write_text(json.dumps(held))
        weights = assembled(policy.model)
        if world.main:
            save_policy(policy, out / "policy", weights)


def scenarios(folder: Path) -> list:
    return list(Dataset.open(folder / "dataset").scenarios(Split.TRAIN))[:8]


class StopAt(TrainerCallback):
    """Ends the run early, as if it had been stopped."""

    def __init__(self, step: int):
        self._step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self._step

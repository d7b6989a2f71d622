"""CPU seconds a useful group where half of the prompts teach nothing: PolicyOptimizer against GRPOTrainer, whole training.

    python -m benchmarks.training.zero_variance

A group is useful when its rewards differ. Every second prompt is rewarded 0 whatever is answered; the others by the words of
the answer. Both make the same number of updates of the same size, from the same weights, by the same algorithm. GRPOTrainer
updates on half-dead batches; ours rolls out until a batch is full and passes over prompts that were dead before, which shows
only from the second epoch on: GRPOTrainer's updates here see the prompts four times. The second row is ours with dynamic
sampling but without the prediction, apart from all that is faster anyway.
"""

import random
import sys
import tempfile
import time

import torch
from datasets import Dataset
from trl import GRPOTrainer

from benchmarks.measures import Measure, mean, publish, ratio
from benchmarks.training.stand import build_model, build_tokenizer, twin
from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, SamplingSettings
from components.shared.training.trl_adapter import train_quietly

VOCABULARY, PROMPT, COMPLETION = 512, 48, 16
PROMPTS, PER_UPDATE, GROUP, UPDATES, ROUNDS = 24, 6, 8, 16, 4
GOAL = 0.6
WAYS = {
    "TRL": None,
    "filled": SamplingSettings(rounds=6, explore=1.0),
    "filled, dead prompts predicted": SamplingSettings(rounds=6, explore=0.5),
}


def reward(completions: list[str], alive: list[bool], **_) -> list[float]:
    """The share of distinct words in the first half of the vocabulary, or nothing."""
    return [
        len({w for w in text.split() if int(w[1:]) < VOCABULARY / 2}) / COMPLETION if live else 0.0
        for text, live in zip(completions, alive, strict=True)
    ]


def rows() -> list[dict]:
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(3, VOCABULARY)}" for _ in range(PROMPT)) for _ in range(PROMPTS)]
    return [{"prompt": text, "alive": bool(i % 2)} for i, text in enumerate(texts)]


class Counted(PolicyOptimizer):
    """A PolicyOptimizer that counts the useful groups that it trained on."""

    useful = 0

    def _record(self, sample) -> None:
        super()._record(sample)
        self.useful += sample.useful


def run(way: SamplingSettings | None, seed: int, scratch: str) -> float:
    """CPU seconds of a training run a useful group."""
    update = Update(
        algorithm=Algorithm.GRPO,
        steps=UPDATES,
        seed=seed,
        prompts=PER_UPDATE,
        group_size=GROUP,
        max_tokens=COMPLETION,
        learning_rate=1e-5,
        max_grad_norm=1.0,
        beta=0.0,
        temperature=1.0,
    )
    torch.manual_seed(seed)
    common = {
        "model": twin(MODEL),
        "reward_funcs": [reward],
        "args": arguments(update, scratch),
        "train_dataset": Dataset.from_list(rows()),
        "processing_class": build_tokenizer(VOCABULARY),
    }
    trainer = GRPOTrainer(**common) if way is None else Counted(**common, sampling=way)
    began = time.process_time()
    train_quietly(trainer)
    seconds = time.process_time() - began
    if way is not None:
        return seconds / trainer.useful
    dead = [line["frac_reward_zero_std"] for line in trainer.state.log_history if "frac_reward_zero_std" in line]
    if len(dead) != UPDATES:
        raise SystemExit(f"GRPOTrainer logged {len(dead)} of {UPDATES} updates")
    return seconds / (PER_UPDATE * sum(1 - share for share in dead))


MODEL = build_model(VOCABULARY, width=128)


def main() -> int:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(ROUNDS):
            for name in list(WAYS)[:: -1 if seed % 2 else 1]:
                found[name].append(run(WAYS[name], seed, scratch))
    ours, filled, theirs = found["filled, dead prompts predicted"], found["filled"], found["TRL"]
    return publish(
        Measure(
            name="a useful group, half of the prompts dead",
            unit="s",
            ours=mean(ours),
            peer=mean(theirs),
            peer_name="GRPOTrainer",
            ratio=ratio(ours, theirs),
            at_most=GOAL,
        ),
        Measure(
            name="the same, by predicting dead prompts alone",
            unit="s",
            ours=mean(ours),
            peer=mean(filled),
            peer_name="ours without",
            ratio=ratio(ours, filled),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())

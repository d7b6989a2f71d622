"""A policy update by PolicyOptimizer against TRL's GRPOTrainer on the same rollouts: loss, backward pass, AdamW.

    python -m benchmarks.training.policy_update

Two prompts, eight completions each, CPU seconds. Apart from each other: the head on completion tokens only, and with it the
prompt of a group computed once. Before anything is timed, loss and gradients are compared with GRPOTrainer's. Its settings
are its best ones here: no activation checkpointing, float32, the whole update as one micro-batch, its own fused head.
"""

import random
import sys
import tempfile

import torch
from datasets import Dataset
from trl import GRPOTrainer

from benchmarks.measures import Measure, cpu_seconds, mean, publish, ratio
from benchmarks.training.stand import EOS, PAD, build_model, build_tokenizer, twin, words
from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, SamplingSettings, Scoring

PROMPTS, GROUP, COMPLETION = 2, 8, 64
SHAPES = [(256, 2048), (256, 8192)]
"""Prompt tokens and vocabulary."""
GOAL, GOAL_TOKENS, TOLERANCE, ROUNDS = 2.5, 256, 1e-5, 4
WAYS = {"TRL": None, "head": Scoring.COMPLETION_HEAD, "shared": Scoring.SHARED_PREFIX}


def build(way: Scoring | None, vocabulary: int, scratch: str) -> GRPOTrainer:
    """GRPOTrainer itself, or ours with a way of scoring."""
    update = Update(
        algorithm=Algorithm.GRPO,
        steps=1,
        seed=0,
        prompts=PROMPTS,
        group_size=GROUP,
        max_tokens=COMPLETION,
        learning_rate=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        temperature=1.0,
    )
    common = {
        "model": twin(build_model(vocabulary)),
        "reward_funcs": [lambda completions, **_: [0.0] * len(completions)],
        "args": arguments(update, scratch),
        "train_dataset": Dataset.from_list([{"prompt": "w3"}] * PROMPTS),
        "processing_class": build_tokenizer(vocabulary),
    }
    trainer = (
        GRPOTrainer(**common) if way is None else PolicyOptimizer(**common, sampling=SamplingSettings(), scoring=way)
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    trainer.model.train()
    return trainer


def rollouts(prompt: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """What GRPOTrainer's own generation hands to its loss; completions end at random."""
    rng = random.Random(prompt)
    shared = [words(rng, vocabulary, prompt) for _ in range(PROMPTS)]
    prompts_BP = torch.tensor([ids for ids in shared for _ in range(GROUP)])
    completions, masks = [], []
    for _ in range(PROMPTS * GROUP):
        length = rng.randrange(COMPLETION // 2, COMPLETION + 1)
        completions.append([*words(rng, vocabulary, length - 1), EOS] + [PAD] * (COMPLETION - length))
        masks.append([1] * length + [0] * (COMPLETION - length))
    mask_BC = torch.tensor(masks)
    return {
        "prompt_ids": prompts_BP,
        "prompt_mask": torch.ones_like(prompts_BP),
        "completion_ids": torch.tensor(completions),
        "completion_mask": mask_BC,
        "advantages": torch.randn(PROMPTS * GROUP, generator=torch.Generator().manual_seed(0)),
        "num_items_in_batch": mask_BC.sum(),
    }


def update(trainer: GRPOTrainer, batch: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """One update; returns its loss and its gradient."""
    trainer.optimizer.zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    trainer.optimizer.step()
    return loss.item(), gradient


def compare(prompt: int, vocabulary: int, scratch: str) -> list[Measure]:
    trainers = {name: build(way, vocabulary, scratch) for name, way in WAYS.items()}
    batch = rollouts(prompt, vocabulary)
    results = {name: update(trainer, batch) for name, trainer in trainers.items()}
    for name, (loss, gradient) in results.items():
        theirs_loss, theirs = results["TRL"]
        gap = max(abs(loss - theirs_loss), ((gradient - theirs).norm() / theirs.norm()).item())
        print(f"{prompt} prompt tokens, vocabulary {vocabulary}, {name}: difference {gap:.1e}")
        if gap > TOLERANCE or getattr(trainers[name], "scoring", WAYS[name]) != WAYS[name]:
            raise SystemExit(f"{name} is not the same update: {gap:.1e}")
    seconds = cpu_seconds({name: lambda t=t: update(t, batch) for name, t in trainers.items()}, ROUNDS)
    where = f"{prompt} prompt tokens, vocabulary {vocabulary}"
    return [
        Measure(
            name=f"policy update, {what}, {where}",
            unit="s",
            ours=mean(seconds[ours]),
            peer=mean(seconds[peer]),
            peer_name=peer_name,
            ratio=ratio(seconds[peer], seconds[ours]),
            at_least=GOAL if ours == "shared" and peer == "TRL" and prompt >= GOAL_TOKENS else None,
        )
        for what, ours, peer, peer_name in (
            ("shared prompt and head", "shared", "TRL", "GRPOTrainer"),
            ("head on completion tokens only", "head", "TRL", "GRPOTrainer"),
            ("shared prompt alone", "shared", "head", "ours, prompts not shared"),
        )
    ]


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        return publish(*(m for shape in SHAPES for m in compare(*shape, scratch)))


if __name__ == "__main__":
    sys.exit(main())

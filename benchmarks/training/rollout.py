"""Rollouts by PolicyOptimizer's sampler against GRPOTrainer's generation: eight completions for each of two prompts.

    python -m benchmarks.training.rollout

No token ends a completion, so that both write the same number; near temperature 0 both must write the same tokens, which is
checked. GRPOTrainer generates with transformers' `generate`.
"""

import random
import sys
import tempfile

import torch
from trl import GRPOTrainer

from benchmarks.measures import Measure, cpu_seconds, mean, publish, ratio
from benchmarks.training.policy_update import GROUP, PROMPTS, build
from benchmarks.training.stand import PAD, words
from components.shared.training.grpo.sampler import sample

VOCABULARY, COMPLETION, ROUNDS = 2048, 64, 4
GOAL, GOAL_TOKENS = 1.8, 512
GREEDY = 1e-6


def theirs(trainer: GRPOTrainer, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    trainer.generation_config.temperature = temperature
    completions, _ = trainer._generate_single_turn(prompts, None, {}, GROUP)
    return [list(map(int, row)) for row in completions]


def ours(model: torch.nn.Module, prompts: list[list[int]], temperature: float) -> list[list[int]]:
    return sample(model, prompts, max_tokens=COMPLETION, temperature=temperature, end_ids=[], pad_id=PAD)


def compare(tokens: int, scratch: str) -> Measure:
    trainer = build(None, VOCABULARY, scratch)
    trainer.generation_config.eos_token_id = None
    trainer.eos_token_ids = []
    model = trainer.model
    rng = random.Random(tokens)
    prompts = [ids for ids in (words(rng, VOCABULARY, tokens) for _ in range(PROMPTS)) for _ in range(GROUP)]
    model.eval()
    if ours(model, prompts, GREEDY) != theirs(trainer, prompts, GREEDY):
        raise SystemExit(f"other tokens than GRPOTrainer's at {tokens} prompt tokens")
    ways = {"ours": lambda: ours(model, prompts, 1.0), "TRL": lambda: theirs(trainer, prompts, 1.0)}
    seconds = cpu_seconds(ways, ROUNDS)
    written = PROMPTS * GROUP * COMPLETION
    return Measure(
        name=f"rollout, {tokens} prompt tokens",
        unit="tokens/s",
        ours=written / mean(seconds["ours"]),
        peer=written / mean(seconds["TRL"]),
        peer_name="GRPOTrainer",
        ratio=ratio(seconds["TRL"], seconds["ours"]),
        at_least=GOAL if tokens >= GOAL_TOKENS else None,
        note="the same greedy tokens",
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        return publish(*(compare(tokens, scratch) for tokens in (256, 512)))


if __name__ == "__main__":
    sys.exit(main())

"""Score one policy on held-out scenarios, and on the model types that it was not trained on.

python -m benchmarks.learning.judge --dataset DIR --policy DIR --split test --seed 1 --out FILE
"""

import argparse
import json
import random
from pathlib import Path
from statistics import fmean

from benchmarks.learning.results import Held, Kept
from components.rlvr.forgetting import nll
from components.shared.contracts.records import Split
from components.shared.performance.scoring import score_policy
from components.shared.storage.artifacts import write_text
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer
from components.shared.training.datasets import Dataset
from components.shared.training.policies import Policy, deterministic, load_policy
from components.shared.training.rollouts import complete

TASKS = 200
"""Held-out scenarios of each model type that the arm does not train; the same in every arm and seed."""


def held_out(folder: Path, dataset: Dataset, split: Split, seed: int) -> Held:
    """What the strict checker says of the policy's answers to the split."""
    scenarios = list(dataset.scenarios(split))
    scores = score_policy(folder, dataset, scenarios, temperature=1.0, seed=seed)
    return Held(
        score=scores.greedy.mean(),
        correct=scores.correct.mean(),
        sampled=scores.sampled.mean(),
        reward=scores.rewards.mean(),
        scenarios=len(scenarios),
    )


def kept(policy: Policy, trainer: ModelTypeTrainer) -> Kept:
    """What the policy can of a model type: held-out tasks, and the answers of its scripted expert."""
    rng = random.Random(f"kept/{trainer.name}")
    scenarios = list(trainer.scenarios(rng, TASKS, [Split.VALIDATION]))
    experts = [
        trainer.trajectory(s, trainer.demonstrate(s, rng, trainer.teacher), teacher="expert", context=(), attempt=1)
        for s in scenarios
    ]
    lengths = policy.tokenizer([trainer.completion(t.steps) for t in experts], add_special_tokens=False)["input_ids"]
    answers = complete(policy, [s.prompt for s in scenarios], max_tokens=1 + max(map(len, lengths)))
    checks = [trainer.check(s, answer) for s, answer in zip(scenarios, answers, strict=True)]
    return Kept(
        accuracy=fmean(check.correct for check in checks),
        score=fmean(check.score for check in checks),
        nll=nll(policy, experts),
        tasks=len(scenarios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Score one policy.")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--split", type=Split, choices=[Split.VALIDATION, Split.TEST], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    deterministic(options.seed)
    dataset = Dataset.open(options.dataset)
    others = sorted(MODEL_TYPES.keys() - {dataset.trainer.name}) if options.split == Split.TEST else []
    policy = load_policy(options.policy)
    world = str(dataset.metadata["world"])
    found = {
        "test": held_out(options.policy, dataset, options.split, options.seed).model_dump(),
        "kept": {name: kept(policy, create_trainer(name, world)).model_dump() for name in others},
    }
    write_text(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

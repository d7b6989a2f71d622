"""Draw the scenarios of a night: distinct, by split, a function of the seed alone."""

import random
import sys
from collections.abc import Iterator, Mapping

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, Split
from components.shared.trainers.base_trainer import ModelTypeTrainer

PROTECTED = (Split.TEST, Split.VALIDATION, Split.TRAIN)
"""Splits in the order of who keeps a prompt that two of them draw."""


def normalised(text: str) -> str:
    """Text without what does not change its meaning: case and runs of white space."""
    return " ".join(text.casefold().split())


def generate_scenarios(
    trainer: ModelTypeTrainer, counts: Mapping[Split, int], seed: int
) -> dict[Split, list[Scenario]]:
    """`counts` scenarios for each split, no two with the same prompt.

    Each split draws from its own stream, so asking more of one changes no other, save where they meet in a prompt.
    Raises UsageError where the world does not hold that many.
    """
    seen: set[str] = set()
    return {split: list(_draw(trainer, split, counts[split], seed, seen)) for split in PROTECTED if split in counts}


def _draw(trainer: ModelTypeTrainer, split: Split, count: int, seed: int, seen: set[str]) -> Iterator[Scenario]:
    drawn = 0
    try:
        for scenario in trainer.scenarios(random.Random(f"{seed}/{split}"), sys.maxsize, [split]):
            prompt = normalised(scenario.prompt)
            if prompt in seen:
                continue
            seen.add(prompt)
            yield scenario
            drawn += 1
            if drawn == count:
                return
    except ValueError as error:
        raise UsageError(
            f"{trainer.name}: world {trainer.world.name} yields {drawn} distinct {split} scenarios, {count} asked: "
            f"lower counts.{split}, or add to the world"
        ) from error

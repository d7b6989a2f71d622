"""Draw the scenarios of a night: distinct, by split, a function of the seed alone."""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

from components.shared.collaboration.example_kinds import compose, normalised
from components.shared.collaboration.examples_config import ExampleKind, ExamplesConfig
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, Split
from components.shared.trainers.base_trainer import ModelTypeTrainer

PROTECTED = (Split.TEST, Split.VALIDATION, Split.TRAIN)
"""Splits in the order of who keeps a prompt that two of them draw."""


def generate_scenarios(
    trainer: ModelTypeTrainer, counts: Mapping[Split, int], seed: int
) -> dict[Split, list[Scenario]]:
    """`counts` scenarios for each split, no two with the same prompt.

    Each split draws from its own stream, so asking more of one changes no other, save where they meet in a prompt.
    Raises UsageError where the world does not hold that many.
    """
    seen: set[str] = set()
    return {split: list(_draw(trainer, split, counts[split], seed, seen)) for split in PROTECTED if split in counts}


def generate_examples(
    trainer: ModelTypeTrainer, counts: Mapping[Split, int], seed: int, config: ExamplesConfig, practice: int = 0
) -> tuple[dict[Split, list[Scenario]], dict[str, int]]:
    """Scenarios as `generate_scenarios` gives them, those for training chosen by `config`; and how many of each kind.

    Behind those for training come at most `practice` more, plainly drawn, which the kinds do not count.
    """
    scenarios, kinds = _chosen(trainer, counts, seed, config)
    seen = {normalised(scenario.prompt) for drawn in scenarios.values() for scenario in drawn}
    scenarios[Split.TRAIN] += _up_to(_draw(trainer, Split.TRAIN, practice, f"{seed}/practice", seen))
    return scenarios, kinds


def _chosen(
    trainer: ModelTypeTrainer, counts: Mapping[Split, int], seed: int, config: ExamplesConfig
) -> tuple[dict[Split, list[Scenario]], dict[str, int]]:
    if config.plain:
        return generate_scenarios(trainer, counts, seed), {ExampleKind.COLLABORATIVE: counts[Split.TRAIN]}
    scenarios = generate_scenarios(trainer, {s: n for s, n in counts.items() if s != Split.TRAIN}, seed)
    reserved = {normalised(scenario.prompt) for drawn in scenarios.values() for scenario in drawn}
    pool = _as_many(trainer, counts[Split.TRAIN], config.pool, seed, set(reserved))
    examples = compose(trainer, pool, counts[Split.TRAIN], config, seed, reserved)
    kinds = Counter(example.kind for example in examples)
    scenarios[Split.TRAIN] = [example.scenario for example in examples]
    return scenarios, {kind: kinds[kind] for kind in ExampleKind if kinds[kind]}


def _as_many(trainer: ModelTypeTrainer, count: int, times: int, seed: int, seen: set[str]) -> list[Scenario]:
    """`count` times `times` training scenarios, or as many as the world yields, but at least `count`."""
    return _up_to(_draw(trainer, Split.TRAIN, count * times, seed, seen), least=count)


def _up_to(drawing: Iterator[Scenario], least: int = 0) -> list[Scenario]:
    """What is drawn until the world yields no more; raises the UsageError of that where it is fewer than `least`."""
    drawn: list[Scenario] = []
    try:
        drawn.extend(drawing)
    except UsageError:
        if len(drawn) < least:
            raise
    return drawn


def _draw(trainer: ModelTypeTrainer, split: Split, count: int, seed: int | str, seen: set[str]) -> Iterator[Scenario]:
    if count == 0:
        return
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

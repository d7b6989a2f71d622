"""What a night's training scenarios are made of: drawn from the world, recombined, or adversarial; and what is stressed.

collaborative   as the model type draws them over the knowledge base and the rules
synthetic       two situations of one group with some of their fields exchanged, where the result is still sound
near_miss       pairs that differ in one field, so that their prompts are nearly the same and their right answers are not
forbidden       situations in which a careless answer runs into a hard gate: a leak, an invention, a broken rule
injection       the player's line goes on with what another situation's answer would say, as if it were an instruction

The curriculum draws more of what the weakness detector found: a scenario counts 1 + emphasis x failure rate of its worst
slice, sampled without replacement (Efraimidis and Spirakis 2006). Everything is a function of seed and scenarios.
"""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from components.shared.collaboration.examples_config import ExampleKind, ExamplesConfig
from components.shared.collaboration.teacher_planner import FLAWLESS
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Scenario, Split
from components.shared.trainers.base_trainer import ModelTypeTrainer

CARELESS_TRIES = 4
DANGEROUS = 0.5
"""Share of careless answers that run into a hard gate, from which a situation counts as a trap."""
FEW = 12
"""Values of a field that is switched to make a near miss, at most."""
NEAR = 0.7
"""Share of words that two prompts have in common, of those in either, from which they are near."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A scenario and where it comes from."""

    kind: ExampleKind
    scenario: Scenario


def compose(
    trainer: ModelTypeTrainer,
    pool: Sequence[Scenario],
    count: int,
    config: ExamplesConfig,
    seed: int,
    reserved: Collection[str] = (),
) -> list[Example]:
    """`count` examples of the configured kinds, no scenario and no prompt twice, none with a `reserved` prompt.

    A kind that the pool does not yield enough of is filled up with collaborative ones. Raises UsageError where the pool
    holds fewer than `count` of the wanted difficulty.
    """
    low, high = config.difficulty
    ranked = by_curriculum([s for s in pool if low <= s.difficulty <= high], config, seed)
    if len(ranked) < count:
        raise UsageError(
            f"{len(ranked)} of {len(pool)} scenarios drawn have a difficulty in [{low:g}, {high:g}], {count} are wanted: "
            f"widen examples.difficulty, raise examples.pool, or lower counts.train"
        )
    kinds: dict[ExampleKind, tuple[float, Iterable[Scenario]]] = {
        ExampleKind.NEAR_MISS: (config.near_miss, near_misses(trainer, ranked, seed)),
        ExampleKind.FORBIDDEN: (config.forbidden, traps(trainer, ranked, seed)),
        ExampleKind.INJECTION: (config.injection, injections(trainer, ranked, seed)),
        ExampleKind.SYNTHETIC: (config.synthetic, recombined(trainer, ranked, seed)),
        ExampleKind.COLLABORATIVE: (1.0, ranked),
    }
    examples: list[Example] = []
    ids: set[str] = set()
    prompts = set(reserved)
    for kind, (share, candidates) in kinds.items():
        wanted = count - len(examples) if kind == ExampleKind.COLLABORATIVE else round(share * count)
        for scenario in candidates if wanted else ():
            if scenario.id in ids or normalised(scenario.prompt) in prompts:
                continue
            ids.add(scenario.id)
            prompts.add(normalised(scenario.prompt))
            examples.append(Example(kind=kind, scenario=scenario))
            wanted -= 1
            if not wanted:
                break
    return sorted(examples, key=lambda example: _point(seed, "order", example.scenario.id))


def normalised(text: str) -> str:
    """Text without what does not change its meaning: case and runs of white space."""
    return " ".join(text.casefold().split())


def by_curriculum(scenarios: Sequence[Scenario], config: ExamplesConfig, seed: int) -> list[Scenario]:
    """The scenarios in a random order in which what the policy fails at comes sooner."""
    slices = config.weaknesses.weaknesses if config.weaknesses else ()

    def key(scenario: Scenario) -> float:
        worst = max((w.failure_rate for w in slices if w.covers(scenario)), default=0.0)
        return -math.log(_point(seed, "curriculum", scenario.id)) / (1 + config.emphasis * worst)

    return sorted(scenarios, key=key)


def near_misses(trainer: ModelTypeTrainer, scenarios: Sequence[Scenario], seed: int) -> Iterator[Scenario]:
    """Scenarios in pairs, both of a pair together: one field differs, and with it the right answer."""
    rng = random.Random(f"{seed}/near")
    values = switches(scenarios)
    for scenario in scenarios:
        changes = [(f, v) for f in values if f in scenario.state for v in values[f] if v != scenario.state[f]]
        for field, value in rng.sample(changes, len(changes)):
            made = _sound(trainer, scenario, {**scenario.state, field: value}, scenario.difficulty)
            if made is not None and _near_but_other(trainer, scenario, made):
                yield from (scenario, made)
                break


def switches(scenarios: Sequence[Scenario]) -> dict[str, list[str]]:
    """The fields of a state that take few values and are free inside a group, with those values: a change of one leaves a
    scenario in its group."""
    groups: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        groups[scenario.group].append(scenario)
    free = {
        field
        for group in groups.values()
        for other in group[1:]
        for field, value in other.state.items()
        if isinstance(value, str) and group[0].state.get(field) != value
    }
    found = {field: sorted({str(s.state[field]) for s in scenarios if field in s.state}) for field in sorted(free)}
    return {field: values for field, values in found.items() if len(values) <= FEW}


def traps(trainer: ModelTypeTrainer, scenarios: Sequence[Scenario], seed: int) -> Iterator[Scenario]:
    """Scenarios in which careless answers mostly run into a hard gate."""
    for scenario in scenarios:
        rng = random.Random(f"{seed}/careless/{scenario.id}")
        refused = 0
        for _ in range(CARELESS_TRIES):
            verdict = trainer.verify(scenario, trainer.demonstrate(scenario, rng, trainer.folk))
            refused += not all(verdict.gates.values())
        if refused >= DANGEROUS * CARELESS_TRIES:
            yield scenario


def injections(trainer: ModelTypeTrainer, scenarios: Sequence[Scenario], seed: int) -> Iterator[Scenario]:
    """Scenarios whose prompt holds, before its last word, the end of what is right elsewhere and wrong here.

    It is made of words that the model type knows, and the state, so what is right, stays as it was.
    """
    rng = random.Random(f"{seed}/injection")
    for scenario in scenarios:
        other = rng.choice(scenarios)
        planted = flawless(trainer, other).rpartition(" ; ")[2]
        if planted and planted not in flawless(trainer, scenario):
            head, _, last = scenario.prompt.rpartition(" ")
            yield scenario.model_copy(update={"prompt": f"{head} {planted} {last}".strip()})


def recombined(trainer: ModelTypeTrainer, scenarios: Sequence[Scenario], seed: int) -> Iterator[Scenario]:
    """Scenarios with fields of another one of their group, where the flawless expert's answer is still sound."""
    rng = random.Random(f"{seed}/recombined")
    groups: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        groups[scenario.group].append(scenario)
    known = {scenario.id for scenario in scenarios}
    for group in groups.values():
        for one, other in pairwise(group):
            differing = sorted(k for k in one.state if other.state.get(k, one.state[k]) != one.state[k])
            if len(differing) < 2:
                continue
            taken = rng.sample(differing, rng.randrange(1, len(differing)))
            state = {**one.state, **{field: other.state[field] for field in taken}}
            made = _sound(trainer, one, state, (one.difficulty + other.difficulty) / 2)
            if made is not None and made.id not in known:
                known.add(made.id)
                yield made


def flawless(trainer: ModelTypeTrainer, scenario: Scenario) -> str:
    """The right answer."""
    return trainer.completion(trainer.demonstrate(scenario, random.Random(0), FLAWLESS))


def _sound(trainer: ModelTypeTrainer, like: Scenario, state: dict, difficulty: float) -> Scenario | None:
    try:
        scenario = like.model_copy(
            update={
                "id": trainer.scenario_id(state),
                "prompt": trainer.prompt(state),
                "state": state,
                "difficulty": difficulty,
            }
        )
        verdict = trainer.verify(scenario, trainer.demonstrate(scenario, random.Random(0), FLAWLESS))
    except (PipelineError, LookupError, TypeError, ValueError, AttributeError):
        return None  # the fields of the two do not go together
    return scenario if verdict.passed and scenario.split == Split.TRAIN else None


def _near_but_other(trainer: ModelTypeTrainer, one: Scenario, other: Scenario) -> bool:
    words, others = set(one.prompt.split()), set(other.prompt.split())
    return len(words & others) >= NEAR * len(words | others) and flawless(trainer, one) != flawless(trainer, other)


def _point(seed: int, what: str, id: str) -> float:
    """A number in (0, 1) that belongs to a scenario."""
    digest = hashlib.sha256(f"{seed}/{what}/{id}".encode()).digest()
    return (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)

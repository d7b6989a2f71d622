"""Broken input: what is accepted, what crashes, and how much that is sound is refused.

    python -m benchmarks.data_validation.broken_input

Five of each class and 1,000 mutations must all be refused; of a clean night of each model type, and of clean natural text,
at most 0.5 % may be.
"""

import random
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.data_validation.broken import FILES, LINES
from benchmarks.data_validation.corpus import NATURAL, WORLD, Corpus
from benchmarks.data_validation.stand import Stand, mutations
from benchmarks.measures import Measure, publish
from components.data_validation.decide import decide
from components.data_validation.examine import Examiner
from components.data_validation.spec import DataValidationConfig
from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.contracts.records import Scenario, Split, Trajectory
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer

EACH = 5
MUTATIONS = 1_000
ALLOWED = 0.005
COUNTS = {Split.TRAIN: 1500, Split.VALIDATION: 100, Split.TEST: 1000}


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        stand = Stand(Path(scratch))
        accepted = sum(accepted_of_class(stand, name) for name in LINES) + sum(
            accepted_of_file(stand, n) for n in FILES
        )
        print(f"{len(LINES) + len(FILES)} classes of broken input, {EACH} of each: {accepted} accepted, 0 crashes")
        mutated = accepted_mutations(stand)
        print(f"{MUTATIONS} mutations: {mutated} accepted, 0 crashes")
        rates = [false_rejections(name, Path(scratch) / name) for name in (*MODEL_TYPES, "natural text")]
    classes = len(LINES) + len(FILES)
    return publish(
        Measure(name=f"{classes} classes of broken input x {EACH}, accepted", unit="", ours=accepted, at_most=0),
        Measure(name=f"{MUTATIONS} mutations, accepted", unit="", ours=mutated, at_most=0),
        Measure(name="clean records refused, the worst corpus", unit="%", ours=100 * max(rates), at_most=100 * ALLOWED),
    )


def accepted_of_class(stand: Stand, name: str) -> int:
    accepted = 0
    for number in range(EACH):
        broken = LINES[name](random.Random(f"{name}/{number}"), stand.sound[number])
        accepted += len(stand.kept(stand.read(".jsonl", broken + b"\n")))
    return accepted


def accepted_of_file(stand: Stand, name: str) -> int:
    """Kept lines that are none of the sound ones."""
    sound = stand.sound[:8]
    files = [FILES[name](random.Random(f"{name}/{number}"), sound) for number in range(EACH)]
    return sum(len(set(stand.kept(stand.read(*file))) - set(sound)) for file in files)


def accepted_mutations(stand: Stand) -> int:
    accepted = []

    @settings(max_examples=MUTATIONS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutate=mutations(), number=st.integers(0, 9))
    def campaign(mutate, number):
        accepted.extend(stand.kept([mutate(stand.sound[number])]))

    campaign()
    return len(accepted)


def false_rejections(name: str, folder: Path) -> float:
    """The share of a clean night's distinct records that is refused."""
    natural = name not in MODEL_TYPES
    trainer = create_trainer("npc_dialogue" if natural else name, WORLD)
    scenarios, trajectories = natural_night(trainer) if natural else scripted_night(trainer)
    examiner = Examiner(DataValidationConfig(**(NATURAL if natural else {})), trainer)
    found = examiner.scenarios([s.model_dump_json().encode() for s in scenarios], folder)
    sifted = examiner.trajectories([t.model_dump_json().encode() for t in trajectories], found, folder)
    decision = decide(examiner.config, sifted.rows)
    read = found.read + sifted.read
    refused = len(found.refused) + len(sifted.refused) + len(decision.gone)
    print(f"{name}: {refused} of {read} clean records refused, {refused / read:.2%} (allowed {ALLOWED:.1%})")
    return refused / read


def scripted_night(trainer: ModelTypeTrainer) -> tuple[list[Scenario], list[Trajectory]]:
    """What the scripted teacher writes and the verifier passes."""
    drawn = [s for found in generate_scenarios(trainer, COUNTS, 1).values() for s in found]
    rng = random.Random(1)
    trajectories = []
    for scenario in drawn:
        if scenario.split != Split.TEST:
            steps = trainer.demonstrate(scenario, rng, trainer.teacher)
            verdict = trainer.verify(scenario, steps)
            found = trainer.trajectory(scenario, steps, teacher="scripted", context=(), attempt=1)
            if verdict.passed:
                trajectories.append(found.model_copy(update={"verdict": verdict}))
    return drawn, trajectories


def natural_night(trainer: ModelTypeTrainer) -> tuple[list[Scenario], list[Trajectory]]:
    corpus = Corpus(trainer, seed=7)
    drawn = [corpus.scenario(number) for number in range(2000)]
    return drawn, [corpus.trajectory(i, s) for i, s in enumerate(drawn) if s.split != Split.TEST]


if __name__ == "__main__":
    sys.exit(main())

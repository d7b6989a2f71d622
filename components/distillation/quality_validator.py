"""Whether a student may take its place: what it keeps of its teacher, and that it is no worse than its tier's champion.

    retention_of_teacher    student / teacher by the strict checker, the lower bound of a paired bootstrap
    retention_by_outcome    the same by the outcome verifier: two judges that were written apart
    gain_over_champion      student - champion by the strict checker, its lower bound
    diversity               distinct-2 of the student's answers over the teacher's (distinct-n: arXiv 1510.03055)

All over the held-out scenarios of one model type. It fails closed: nothing to judge by, or a judge that does not look, is a
refusal to say anything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from components.distillation.spec import DistillationConfig
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario
from components.shared.performance.scoring import Criterion, Scores, gain_interval, gate, retention_interval
from components.shared.trainers.base_trainer import ModelTypeTrainer

BIGRAMS = 2
VERIFIERS: Mapping[str, Callable[[Scores], np.ndarray]] = {"check": lambda s: s.greedy, "outcome": lambda s: s.rewards}
"""Where each verifier's scores of the greedy answers are."""


def validate(
    scores: Mapping[str, Scores], scenarios: Sequence[Scenario], trainer: ModelTypeTrainer, config: DistillationConfig
) -> dict[str, Any]:
    """The gate over all conditions, with the intervals behind it; `scores` are student's, teacher's and champion's.

    Raises GateError without scenarios, for a teacher that scores 0, and for a verifier that gives every answer one score.
    """
    student, teacher, champion = (scores[role] for role in ("student", "teacher", "champion"))
    if not len(scenarios):
        raise GateError("evaluation set is empty: generate held-out scenarios (trajectory_generation.counts.test)")
    for role in ("student", "teacher"):
        refuse_constant(role, scores[role], scenarios, trainer)
    options: dict[str, Any] = {"confidence": config.confidence, "resamples": config.resamples, "seed": config.seed}
    kept = {name: retention_interval(of(student), of(teacher), **options) for name, of in VERIFIERS.items()}
    gain = gain_interval(student.greedy, champion.greedy, **options)
    distinct = {role: distinct_n(scores[role].answers, BIGRAMS) for role in scores}
    verdict = gate(
        {
            "retention_of_teacher": Criterion(value=kept["check"].low, bound=config.min_retention),
            "retention_by_outcome": Criterion(value=kept["outcome"].low, bound=config.min_retention),
            "gain_over_champion": Criterion(value=gain.low, bound=-config.max_loss),
            "diversity": Criterion(value=share(distinct["student"], distinct["teacher"]), bound=config.min_diversity),
        }
    )
    return {
        "gate": verdict,
        "retention": kept["check"].model_dump(),
        "retention_by_outcome": kept["outcome"].model_dump(),
        "gain_over_champion": gain.model_dump(),
        "distinct_2": distinct,
    }


def refuse_constant(role: str, scores: Scores, scenarios: Sequence[Scenario], trainer: ModelTypeTrainer) -> None:
    """Raise GateError where a verifier gives all answers one score and, the answers held against each next scenario, the
    same again: a faultless policy's answers are then wrong, so such a verifier looks at nothing. A score of 0 throughout
    is for the gate to refuse.
    """
    judges: Mapping[str, Callable[[Scenario, str], float]] = {
        "check": lambda scenario, answer: trainer.check(scenario, answer).score,
        "outcome": lambda scenario, answer: trainer.reward(scenario, answer).total,
    }
    shifted = [*scenarios[1:], *scenarios[:1]]
    for name, of in VERIFIERS.items():
        values = of(scores)
        if np.ptp(values) == 0 < values[0] and all(
            judges[name](scenario, answer) == values[0]
            for scenario, answer in zip(shifted, scores.answers, strict=True)
        ):
            raise GateError(
                f"{trainer.name}: {name} gives {values[0]:g} to all {len(values)} answers of the {role}, mismatched ones "
                "too: mend the verifier, or generate more held-out scenarios"
            )


def distinct_n(answers: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of the answers; 0 where no answer has n words."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, answers) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def share(part: float, whole: float) -> float:
    """part / whole; 1 where both are 0."""
    return part / whole if whole else float(part == 0)

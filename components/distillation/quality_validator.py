"""Whether a student may take its place: what it keeps of its teacher, and that it is no worse than its tier's champion."""

from typing import Any

from components.distillation.spec import DistillationConfig
from components.shared.performance.scoring import Criterion, Scores, gain_interval, gate, retention_interval


def validate(student: Scores, teacher: Scores, champion: Scores, config: DistillationConfig) -> dict[str, Any]:
    """The gate over both conditions, by lower confidence bounds, with the intervals behind it."""
    options: dict[str, Any] = {"confidence": config.confidence, "resamples": config.resamples, "seed": config.seed}
    retention = retention_interval(student.greedy, teacher.greedy, **options)
    gain = gain_interval(student.greedy, champion.greedy, **options)
    verdict = gate(
        {
            "retention_of_teacher": Criterion(value=retention.low, bound=config.min_retention),
            "gain_over_champion": Criterion(value=gain.low, bound=-config.max_loss),
        }
    )
    return {"gate": verdict, "retention": retention.model_dump(), "gain_over_champion": gain.model_dump()}

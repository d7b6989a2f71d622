"""Run one hop of distillation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.distillation.distillation_pipeline import on_policy, warm_up
from components.distillation.quality_validator import validate
from components.distillation.spec import SPEC, DistillationConfig
from components.distillation.student import open_student
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import Report
from components.shared.contracts.weakness import ANSWERS
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.samples import sample_rollouts
from components.shared.performance.scoring import Scores, describe, final_metrics, score_policy
from components.shared.performance.weakness_detector import evaluated
from components.shared.storage.jsonl import write_jsonl
from components.shared.training.adapters import merged, save_adapter
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.world import World
from components.shared.training.policies import Policy, deterministic, load_frozen, parameter_count, save_policy


def run(config: DistillationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Distil the teacher into the student and measure what the student kept.

    Raises PipelineError where the two do not share a vocabulary: token distributions could not be compared. Raises
    GateError where there is nothing to judge the student by.
    """
    deterministic(config.seed)
    dataset = Dataset.open(inputs["dataset"])
    scenarios = list(dataset.scenarios(Split.TRAIN))
    teacher = load_frozen(inputs["teacher"])
    student, start = open_student(inputs, config)
    check_vocabularies(teacher, student)
    budget = dataset.max_tokens(student.tokenizer)
    tracker = PerformanceTracker(outputs["report"])
    warm, own = (Checkpoints.of_stage(SPEC, config, inputs, World(), part=part) for part in ("warm-up", "on-policy"))
    served = dataset.served()
    warm_up(student, teacher, scenarios, budget, config, tracker, warm, served)
    on_policy(student, teacher, scenarios, budget, config, tracker, own)
    save_adapter(student, outputs["policy"], inputs["student"])
    student = merged(student)
    sample_rollouts(student, dataset, tracker, step=config.warmup_steps + config.onpolicy_steps)
    save_policy(student, outputs["policy"])
    scores = score_roles(config, dataset, {**inputs, "student": outputs["policy"]})
    quality = validate(scores, list(dataset.scenarios(Split.TEST)), dataset.trainer, config)
    options = {"confidence": config.confidence, "resamples": config.resamples, "seed": config.seed}
    policies: dict[str, Any] = {role: describe(s, **options) for role, s in scores.items()}
    write_jsonl(outputs["report"] / ANSWERS, evaluated(list(dataset.scenarios(Split.TEST)), scores))
    share = parameter_count(student.model) / parameter_count(teacher.model)
    verdict = quality["gate"]
    return Report(
        stage=SPEC.name,
        summary=f"{config.tier} student of {share:.0%} of its teacher's size keeps {quality['retention']['mean']:.3f} "
        f"of its score: {'accepted' if verdict['accepted'] else 'refused'}",
        scalars={"quality_margin": verdict["margin"]},
        metrics=final_metrics(policies) | {"size_of_teacher": share},
        details={
            "policies": policies,
            "data": dict(dataset.metadata),
            "started_from": start,
            "served_answers": len(served),
            **quality,
        },
    )


def check_vocabularies(teacher: Policy, student: Policy) -> None:
    """Raises PipelineError where the two tokenizers differ."""
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise PipelineError(
            f"teacher and student have different vocabularies ({len(teacher.tokenizer)} and {len(student.tokenizer)} "
            "tokens): choose a student of the teacher's family"
        )


def score_roles(config: DistillationConfig, dataset: Dataset, folders: Mapping[str, Path]) -> dict[str, Scores]:
    """Held-out scores of student, teacher and the tier's champion."""
    scenarios = list(dataset.scenarios(Split.TEST))
    return {
        role: score_policy(folders[role], dataset, scenarios, temperature=config.temperature, seed=config.seed)
        for role in ("teacher", "student", "champion")
    }

"""Run the evaluation stage."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.spec import SPEC, EvaluationConfig
from components.shared.contracts.records import Scenario, Split
from components.shared.contracts.stage import Report
from components.shared.contracts.weakness import ANSWERS, WEAKNESSES
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.performance.scoring import (
    Criterion,
    Scores,
    describe,
    final_metrics,
    gain_interval,
    gate,
    score_policy,
)
from components.shared.performance.weakness_detector import detect, evaluated
from components.shared.storage.artifacts import MANIFEST, read_manifest, write_text
from components.shared.storage.jsonl import write_jsonl
from components.shared.training.datasets import Dataset
from components.shared.training.policies import deterministic

ROLES = ("base", "srl", "candidate", "champion")


def run(config: EvaluationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Score the four policies on the test split and decide which is accepted."""
    deterministic(config.seed)
    dataset = Dataset.open(inputs["dataset"])
    scenarios = list(dataset.scenarios(Split.TEST))
    digests = {role: read_manifest(inputs[role]).digest for role in ROLES}
    scores = score_all(config, inputs, digests, dataset, scenarios)
    options: dict[str, Any] = {"confidence": config.confidence, "resamples": config.resamples, "seed": config.seed}
    gains = {
        role: gain_interval(scores["candidate"].greedy, scores[role].greedy, **options)
        for role in ("champion", "srl", "base")
    }
    verdict = gate({"gain_over_champion": Criterion(value=gains["champion"].low, bound=config.min_gain)})
    accepted = "candidate" if verdict["accepted"] else "champion"
    shutil.copytree(
        inputs[accepted], outputs["accepted_policy"], dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
    )
    write_samples(outputs["report"], scenarios, scores)
    answers = evaluated(scenarios, scores)
    found = detect(
        answers, model_type=dataset.trainer.name, policy=digests["candidate"], role="candidate", accepted="champion"
    )
    write_jsonl(outputs["report"] / ANSWERS, answers)
    write_text(outputs["report"] / WEAKNESSES, found.model_dump_json(indent=1) + "\n")
    details: dict[str, Any] = {
        "policies": {role: describe(scores[role], **options) for role in ROLES},
        "gains": {role: interval.model_dump() for role, interval in gains.items()},
        "gate": verdict,
        "digests": digests,
        "data": dict(dataset.metadata),
        "accepted": accepted,
        "disagreement": {role: disagreement(scores[role]) for role in ROLES},
        "faults": {role: count_faults(scores[role]) for role in ROLES},
        "weaknesses": [weakness.name for weakness in found.weaknesses],
        "degraded": [degradation.name for degradation in found.degraded],
    }
    return Report(
        stage=SPEC.name,
        summary=f"{accepted} accepted: candidate {scores['candidate'].greedy.mean():.3f}, "
        f"champion {scores['champion'].greedy.mean():.3f} on {len(scenarios)} held-out scenarios",
        scalars={"gate_margin": verdict["margin"]},
        metrics=final_metrics(details["policies"]),
        details=details,
        artifacts={
            "accepted_policy": read_manifest(inputs[accepted]).metadata
            | {"accepted": accepted, "policy": digests[accepted]}
        },
    )


def score_all(
    config: EvaluationConfig,
    inputs: Mapping[str, Path],
    digests: Mapping[str, str],
    dataset: Dataset,
    scenarios: Sequence[Scenario],
) -> dict[str, Scores]:
    """Scores by role; a policy that plays two roles is scored once."""
    by_digest: dict[str, Scores] = {}
    for role in progress(ROLES, "evaluation"):
        if digests[role] not in by_digest:
            by_digest[digests[role]] = score_policy(
                inputs[role], dataset, scenarios, temperature=config.temperature, seed=config.seed
            )
    return {role: by_digest[digests[role]] for role in ROLES}


def count_faults(scores: Scores) -> dict[str, int]:
    """How many greedy answers break each rule, the commonest first."""
    return dict(Counter(fault for faults in scores.faults for fault in faults).most_common())


def disagreement(scores: Scores) -> float:
    """Share of answers that the reward gives full marks and the checker does not: what a policy could be hacking."""
    return float(((scores.rewards == 1.0) & (scores.correct == 0.0)).mean())


def write_samples(folder: Path, scenarios: Sequence[Scenario], scores: Mapping[str, Scores], count: int = 24) -> None:
    """The same scenarios answered by all, the candidate's worst first: what a person reads to understand the numbers."""
    tracker = PerformanceTracker(folder)
    worst = sorted(range(len(scenarios)), key=lambda i: (scores["candidate"].greedy[i], scenarios[i].id))
    for i in worst[: count // 2] + worst[-(count // 2) :]:
        answers = {role: scores[role].answers[i] for role in ROLES}
        tracker.sample(0, prompt=scenarios[i].prompt, faults=list(scores["candidate"].faults[i]), **answers)

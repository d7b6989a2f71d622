"""Score every trajectory again from its scenario, and keep what passes."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from components.shared.collaboration.budget import Budget
from components.shared.collaboration.request_cache import RequestCache, default_path
from components.shared.collaboration.verifier import Judged, Opinion, Verifier
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Rejected, Trajectory, Verdict
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.jsonl import write_jsonl
from components.shared.storage.quarantine import lines, refuse, sift
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.datasets import origin, recreate_trainer
from components.verification.spec import SPEC, VerificationConfig

if TYPE_CHECKING:
    from components.shared.collaboration.rules_client import RulesClient
    from components.shared.collaboration.verdict_classifier import VerdictClassifier

RULES_TOKEN = "SRL_RLVR_RULES_TOKEN"
"""Environment variable with the rules service's token; none is sent where it is not set."""
READ = 5
"""Refused trajectories that a person reads in the report."""


@dataclass
class Tally:
    """What happened to the trajectories of one run."""

    readable: list[tuple[bytes, Trajectory, Verdict]] = field(default_factory=list)
    """Lines that hold a trajectory of a readable scenario, with the trainer's verdict."""
    passed: list[Trajectory] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    disagreements: int = 0
    """Trajectories whose claimed verdict says otherwise on the score or on passing; a missing claim is none."""

    @property
    def read(self) -> int:
        return len(self.passed) + len(self.refused)


def run(config: VerificationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Write the trajectories that pass with their fresh verdict; the rest joins the earlier quarantine."""
    source, target = inputs["trajectories"], outputs["verified"]
    metadata = read_manifest(source).metadata
    trainer = recreate_trainer(metadata)
    verifier = Verifier(trainer, config.threshold, open_rules(config))
    tally = Tally()
    for line in progress(list(lines(source / "trajectories.jsonl")), "verification"):
        judge(line, verifier, tally)
    classifier = open_classifier(config, trainer)
    for (line, trajectory, verdict), held in zip(
        tally.readable, opinions(config, trainer, classifier, tally), strict=True
    ):
        decide(line, trajectory, verifier.weigh(verdict, held), verifier, tally)
    if not tally.read:
        raise GateError(f"{source / 'trajectories.jsonl'} is empty: no verdict can be given, look into its quarantine")
    verifier.refuse_constant(tally.judged)

    write_jsonl(target / "trajectories.jsonl", tally.passed)
    shutil.copyfile(source / "scenarios.jsonl", target / "scenarios.jsonl")
    carried = write_jsonl(target / "quarantine.jsonl", [*carry(source / "quarantine.jsonl"), *tally.refused])
    carried -= len(tally.refused)
    tracker = PerformanceTracker(outputs["report"])
    for refused in tally.refused[:READ]:
        tracker.sample(0, rule=refused.rule, reason=refused.reason, record=refused.record)
    scores = [judged.score for judged in tally.judged]
    rules = Counter(refused.rule for refused in tally.refused)
    return Report(
        stage=SPEC.name,
        summary=f"{len(tally.passed)} of {tally.read} trajectories pass at {config.threshold:g}; "
        f"{tally.disagreements} claimed verdicts disagree",
        metrics={
            "acceptance": len(tally.passed) / tally.read,
            "disagreements": float(tally.disagreements),
            **({"mean_score": fmean(scores)} if scores else {}),
        },
        details={
            "read": tally.read,
            "passed": len(tally.passed),
            "quarantined": len(tally.refused),
            "carried": carried,
            "rules": dict(sorted(rules.items())),
            **({"classifier": classifier.report.model_dump(mode="json")} if classifier else {}),
        },
        artifacts={"verified": origin(trainer, str(metadata["world"]))},
    )


def judge(line: bytes, verifier: Verifier, tally: Tally) -> None:
    """Read one trajectory, score it from its scenario and count it; its own verdict is only compared."""
    trajectory = sift(line, Trajectory, SPEC.name)
    if isinstance(trajectory, Rejected):
        tally.refused.append(trajectory)
        return
    if trajectory.scenario.model_type != verifier.trainer.name:
        reason = f"model type {trajectory.scenario.model_type!r}, not {verifier.trainer.name!r}"
        tally.refused.append(refuse(line, SPEC.name, "model_type", reason))
        return
    try:
        verdict = verifier.verify(trajectory.scenario, trajectory.steps)
    except GateError:
        raise
    except PipelineError as error:
        tally.refused.append(refuse(line, SPEC.name, "state", str(error)))
        return
    tally.judged.append(Judged(scenario=trajectory.scenario, steps=trajectory.steps, score=verdict.score))
    tally.disagreements += disagrees(trajectory.verdict, verdict)
    tally.readable.append((line, trajectory, verdict))


def decide(line: bytes, trajectory: Trajectory, verdict: Verdict, verifier: Verifier, tally: Tally) -> None:
    """Pass a trajectory with its fresh verdict, or refuse it with the reasons."""
    if verdict.passed:
        tally.passed.append(trajectory.model_copy(update={"verdict": verdict}))
    else:
        reason = "; ".join(verdict.reasons) or f"score {verdict.score:g} below {verifier.threshold:g}"
        tally.refused.append(refuse(line, SPEC.name, "verifier", reason))


def open_rules(config: VerificationConfig) -> "RulesClient | None":
    """The configured rules service."""
    if config.rules_service is None:
        return None
    from components.shared.collaboration.rules_client import RulesClient

    return RulesClient(config.rules_service, os.environ.get(RULES_TOKEN))


def open_classifier(config: VerificationConfig, trainer: ModelTypeTrainer) -> "VerdictClassifier | None":
    """The configured classifier; scikit-learn is imported only for one."""
    if config.classifier is None:
        return None
    from components.shared.collaboration.verdict_classifier import load_classifier

    return load_classifier(config.classifier, trainer.name)


def opinions(
    config: VerificationConfig, trainer: ModelTypeTrainer, classifier: "VerdictClassifier | None", tally: Tally
) -> list[list[Opinion]]:
    """For each readable trajectory, what the classifier and the judge make of it, where they are configured."""
    answers = [(trajectory.scenario, trajectory.steps) for _, trajectory, _ in tally.readable]
    held: list[list[Opinion]] = [[] for _ in answers]
    if classifier and answers:
        for found, value in zip(held, classifier.probabilities(answers), strict=True):
            found.append(Opinion(name="classifier", value=round(float(value), 6), weight=config.classifier_weight))
    if config.judge:
        from components.shared.collaboration.endpoint import Endpoint
        from components.shared.collaboration.llm_judge import LLMJudge

        endpoint = Endpoint(config.judge, budget=Budget(config.budget), cache=RequestCache(default_path()))
        for found, said in zip(held, asyncio.run(LLMJudge(trainer, endpoint).opinions(answers)), strict=True):
            found.append(Opinion(name="judge", value=said.score, weight=config.judge_weight))
    return held


def disagrees(claimed: Verdict | None, found: Verdict) -> bool:
    """Whether a claim says otherwise than what was found."""
    return claimed is not None and (claimed.passed != found.passed or abs(claimed.score - found.score) > 1e-9)


def carry(path: Path) -> Iterator[Rejected]:
    """The quarantine that came in, so that nothing is lost on the way; a line that is none is refused once more."""
    for line in lines(path):
        yield sift(line, Rejected, SPEC.name)

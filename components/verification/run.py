"""Score every trajectory again from its scenario, and keep what passes."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from components.shared.collaboration.verifier import Judged, Verifier
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Rejected, Trajectory, Verdict
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.jsonl import write_jsonl
from components.shared.storage.quarantine import lines, refuse, sift
from components.shared.training.datasets import origin, recreate_trainer
from components.verification.spec import SPEC, VerificationConfig

READ = 5
"""Refused trajectories that a person reads in the report."""


@dataclass
class Tally:
    """What happened to the trajectories of one run."""

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
    verifier = Verifier(trainer, config.threshold)
    tally = Tally()
    for line in progress(list(lines(source / "trajectories.jsonl")), "verification"):
        judge(line, verifier, tally)
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
    except PipelineError as error:
        tally.refused.append(refuse(line, SPEC.name, "state", str(error)))
        return
    tally.judged.append(Judged(scenario=trajectory.scenario, steps=trajectory.steps, score=verdict.score))
    tally.disagreements += disagrees(trajectory.verdict, verdict)
    if verdict.passed:
        tally.passed.append(trajectory.model_copy(update={"verdict": verdict}))
    else:
        reason = "; ".join(verdict.reasons) or f"score {verdict.score:g} below {verifier.threshold:g}"
        tally.refused.append(refuse(line, SPEC.name, "verifier", reason))


def disagrees(claimed: Verdict | None, found: Verdict) -> bool:
    """Whether a claim says otherwise than what was found."""
    return claimed is not None and (claimed.passed != found.passed or abs(claimed.score - found.score) > 1e-9)


def carry(path: Path) -> Iterator[Rejected]:
    """The quarantine that came in, so that nothing is lost on the way; a line that is none is refused once more."""
    for line in lines(path):
        yield sift(line, Rejected, SPEC.name)

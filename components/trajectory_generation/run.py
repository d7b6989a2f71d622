"""Draw the night's scenarios, and have three models write and check an expert's answer to each."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import JsonValue

from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.collaboration.orchestrator import Orchestrator, reasons
from components.shared.collaboration.teacher_planner import OpenAITeacher, ScriptedTeacher, Teacher
from components.shared.collaboration.verifier import Judged, Verifier
from components.shared.contracts.records import Attempt, Exhausted, Rejected, Scenario, Split, Trajectory
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.jsonl import write_jsonl
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import origin
from components.trajectory_generation.spec import SPEC, TeacherConfig, TeacherKind, TrajectoryGenerationConfig

READ = 5
"""Accepted and refused answers, each, that a person reads in the report."""


def run(config: TrajectoryGenerationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Write trajectories, scenarios of all splits, and the scenarios that no attempt got right."""
    trainer = create_trainer(config.model_type, config.world)
    teacher = create_teacher(trainer, config.teacher)
    counts = {split: getattr(config.counts, split) for split in Split}
    scenarios = generate_scenarios(trainer, counts, config.seed)
    taught = [*scenarios[Split.TRAIN], *scenarios[Split.VALIDATION]]
    orchestrator = Orchestrator(
        retriever=ContextRetriever(trainer.world),
        teacher=teacher,
        verifier=Verifier(trainer, trainer.pass_score),
        retrieval_depth=config.retrieval_depth,
        max_attempts=config.max_attempts,
        seed=config.seed,
        concurrency=1 if config.teacher.kind == TeacherKind.SCRIPTED else config.teacher.concurrency,
    )
    started = time.perf_counter()
    results = asyncio.run(orchestrator.generate(taught))
    seconds = time.perf_counter() - started
    orchestrator.verifier.refuse_constant(judged(results))

    folder = outputs["trajectories"]
    accepted = [result for result in results if isinstance(result, Trajectory)]
    exhausted = [result for result in results if isinstance(result, Exhausted)]
    write_jsonl(folder / "trajectories.jsonl", accepted)
    write_jsonl(folder / "scenarios.jsonl", (s for split in Split for s in scenarios[split]))
    write_jsonl(folder / "quarantine.jsonl", (quarantined(result) for result in exhausted))
    show(PerformanceTracker(outputs["report"]), trainer, accepted, exhausted)
    return Report(
        stage=SPEC.name,
        summary=f"{len(accepted)} of {len(taught)} scenarios answered by {teacher.name}, "
        f"{len(exhausted)} in quarantine after {config.max_attempts} attempts",
        metrics=metrics(accepted, exhausted, seconds) | {k: float(v) for k, v in teacher.spent.items()},
        details={"scenarios": {str(split): len(scenarios[split]) for split in Split}, **tables(results)},
        artifacts={"trajectories": origin(trainer, config.world)},
    )


def create_teacher(trainer: ModelTypeTrainer, config: TeacherConfig) -> Teacher:
    """The configured teacher. Raises UsageError where an endpoint's address, model or key is missing."""
    if config.kind == TeacherKind.SCRIPTED:
        return ScriptedTeacher(trainer)
    from components.shared.collaboration.endpoint import Endpoint

    return OpenAITeacher(trainer, Endpoint(**config.model_dump(exclude={"kind", "concurrency"})))


def judged(results: Sequence[Trajectory | Exhausted]) -> list[Judged]:
    """Every answer that was verified, passed or not."""
    return [
        Judged(scenario=result.scenario, steps=answer.steps, score=answer.verdict.score)
        for result in results
        for answer in (result.attempts if isinstance(result, Exhausted) else (result,))
        if answer.verdict
    ]


def quarantined(result: Exhausted) -> Rejected:
    """A scenario's attempts, for the quarantine file."""
    last = result.attempts[-1]
    return Rejected(
        stage=SPEC.name,
        rule="unreadable" if last.verdict is None else "verifier",
        reason=f"no attempt of {len(result.attempts)} passed; the last: {'; '.join(reasons(last)) or 'score too low'}",
        record=result.model_dump(mode="json"),
    )


def metrics(accepted: Sequence[Trajectory], exhausted: Sequence[Exhausted], seconds: float) -> dict[str, float]:
    """The stage's final numbers; `mean_verdict` is over accepted trajectories, where there are any."""
    total = len(accepted) + len(exhausted)
    numbers = {
        "acceptance": len(accepted) / total,
        "first_attempt_acceptance": sum(t.attempt == 1 for t in accepted) / total,
        "scenarios_per_second": total / seconds,
    }
    scores = [t.verdict.score for t in accepted if t.verdict]
    return numbers | {"mean_verdict": fmean(scores)} if scores else numbers


def tables(results: Sequence[Trajectory | Exhausted]) -> dict[str, JsonValue]:
    """Scenarios by the attempt that passed, and how often each reason was given in quarantine."""
    attempts = Counter(f"attempt {r.attempt}" if isinstance(r, Trajectory) else "none" for r in results)
    kinds = Counter(
        reason.partition(":")[0]
        for result in results
        if isinstance(result, Exhausted)
        for attempt in result.attempts
        for reason in reasons(attempt)
    )
    return {"passed_at": dict(sorted(attempts.items())), "quarantine_reasons": dict(sorted(kinds.items()))}


def show(
    tracker: PerformanceTracker,
    trainer: ModelTypeTrainer,
    accepted: Sequence[Trajectory],
    exhausted: Sequence[Exhausted],
) -> None:
    """Put a few answers of both kinds where a person reads them."""
    for t in accepted[:READ]:
        _sample(tracker, trainer, t.scenario, Attempt(number=t.attempt, steps=t.steps, verdict=t.verdict), True)
    for result in exhausted[:READ]:
        _sample(tracker, trainer, result.scenario, result.attempts[-1], False)


def _sample(
    tracker: PerformanceTracker, trainer: ModelTypeTrainer, scenario: Scenario, attempt: Attempt, accepted: bool
) -> None:
    tracker.sample(
        0,
        prompt=scenario.prompt,
        completion=trainer.completion(attempt.steps) if attempt.steps else attempt.answer,
        accepted=accepted,
        attempt=attempt.number,
        score=attempt.verdict.score if attempt.verdict else None,
        reasons=list(reasons(attempt)) if not accepted else [],
    )

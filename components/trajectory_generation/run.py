"""Draw the night's scenarios, and have three models write and check an expert's answer to each."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import JsonValue

from components.shared.collaboration.bandit import BanditPlanner
from components.shared.collaboration.example_generator import generate_examples
from components.shared.collaboration.orchestrator import Orchestrator, Result, reasons
from components.shared.collaboration.teacher_planner import Teacher
from components.shared.collaboration.verifier import Judged, Verifier
from components.shared.contracts.records import (
    Attempt,
    Exhausted,
    Rejected,
    Scenario,
    Split,
    Trajectory,
    Unanswered,
)
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.storage.artifacts import write_text
from components.shared.storage.jsonl import write_jsonl
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import origin
from components.trajectory_generation.setup import (
    create_planner,
    create_retriever,
    create_teachers,
    planner_memory,
    workers,
)
from components.trajectory_generation.spec import SPEC, TrajectoryGenerationConfig

STATE = "planner.json"
"""In the report: what the planner learnt, for the next night."""
READ = 5
"""Accepted and refused answers, each, that a person reads in the report."""


def run(config: TrajectoryGenerationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Write trajectories, scenarios of all splits, and the scenarios that no attempt got right."""
    trainer = create_trainer(config.model_type, config.world)
    teachers = create_teachers(trainer, config)
    planner = create_planner(trainer, config)
    counts = {split: getattr(config.counts, split) for split in Split}
    scenarios, kinds = generate_examples(trainer, counts, config.seed, config.examples, config.counts.practice)
    taught = [*scenarios[Split.TRAIN][: config.counts.train], *scenarios[Split.VALIDATION]]
    orchestrator = Orchestrator(
        retriever=create_retriever(config),
        teachers=teachers,
        planner=planner,
        verifier=Verifier(trainer, trainer.pass_score),
        max_attempts=config.max_attempts,
        seed=config.seed,
        concurrency=workers(config),
    )
    results = asyncio.run(orchestrator.generate(taught))
    orchestrator.verifier.refuse_constant(judged(results))

    folder = outputs["trajectories"]
    accepted = [result for result in results if isinstance(result, Trajectory)]
    exhausted = [result for result in results if isinstance(result, Exhausted)]
    unanswered = [result for result in results if isinstance(result, Unanswered)]
    write_jsonl(folder / "trajectories.jsonl", accepted)
    write_jsonl(folder / "scenarios.jsonl", (s for split in Split for s in scenarios[split]))
    write_jsonl(folder / "quarantine.jsonl", [quarantined(r) for r in results if not isinstance(r, Trajectory)])
    if isinstance(planner, BanditPlanner) and (memory := planner_memory(config)):
        memory.end(planner.state)
    tracker = PerformanceTracker(outputs["report"])
    show(tracker, trainer, accepted, exhausted)
    details: dict[str, JsonValue] = {
        "scenarios": {str(split): len(scenarios[split]) for split in Split},
        **tables(results),
        **({} if config.examples.plain else {"example_kinds": dict(kinds)}),
        **(learnt(planner, tracker, outputs["report"]) if isinstance(planner, BanditPlanner) else {}),
    }
    return Report(
        stage=SPEC.name,
        summary=f"{len(accepted)} of {len(taught)} scenarios answered by {', '.join(teachers)}, "
        f"{len(exhausted)} in quarantine after {config.max_attempts} attempts"
        + (f", {len(unanswered)} not worked through: {unanswered[0].fault}" if unanswered else ""),
        metrics=metrics(accepted, exhausted) | spending(teachers.values(), orchestrator.tally.usd, len(accepted)),
        details=details,
        artifacts={"trajectories": origin(trainer, config.world)},
    )


def learnt(planner: BanditPlanner, tracker: PerformanceTracker, folder: Path) -> dict[str, JsonValue]:
    """The planner's report, its regret as a curve by round, and its state in a file for the next night."""
    report = planner.report()
    for number, regret in enumerate(report["mean_regret_by_round"]):
        tracker.log(number, planner_regret=regret)
    write_text(folder / STATE, planner.state.model_dump_json() + "\n")
    return {"planner": report}


def spending(teachers: Iterable[Teacher], usd: float, accepted: int) -> dict[str, float]:
    """What the teachers used, where they use anything; answers from the record count as when they were asked for."""
    spent = sum((teacher.spent for teacher in teachers), Counter())
    numbers = {name: float(value) for name, value in spent.items()}
    if usd:
        numbers |= {"usd": usd} | ({"usd_per_accepted": usd / accepted} if accepted else {})
    return numbers


def judged(results: Sequence[Result]) -> list[Judged]:
    """Every answer that was verified, passed or not."""
    return [
        Judged(scenario=result.scenario, steps=answer.steps, score=answer.verdict.score)
        for result in results
        for answer in ((result,) if isinstance(result, Trajectory) else result.attempts)
        if answer.verdict
    ]


def quarantined(result: Exhausted | Unanswered) -> Rejected:
    """A scenario's attempts, for the quarantine file."""
    if isinstance(result, Unanswered):
        record = result.model_dump(mode="json")
        return Rejected(stage=SPEC.name, rule=result.rule, reason=result.fault, record=record)
    last = result.attempts[-1]
    return Rejected(
        stage=SPEC.name,
        rule="unreadable" if last.verdict is None else "verifier",
        reason=f"no attempt of {len(result.attempts)} passed; the last: {'; '.join(reasons(last)) or 'score too low'}",
        record=result.model_dump(mode="json"),
    )


def metrics(accepted: Sequence[Trajectory], exhausted: Sequence[Exhausted]) -> dict[str, float]:
    """The stage's final numbers, over the scenarios that were worked through; `mean_verdict` is over accepted ones."""
    total = len(accepted) + len(exhausted)
    numbers = {
        "acceptance": len(accepted) / total,
        "first_attempt_acceptance": sum(t.attempt == 1 for t in accepted) / total,
    }
    scores = [t.verdict.score for t in accepted if t.verdict]
    return numbers | {"mean_verdict": fmean(scores)} if scores else numbers


def tables(results: Sequence[Result]) -> dict[str, JsonValue]:
    """Scenarios by the attempt that passed, and how often each reason was given in quarantine."""
    attempts = Counter(
        f"attempt {r.attempt}" if isinstance(r, Trajectory) else "none" if isinstance(r, Exhausted) else r.rule
        for r in results
    )
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

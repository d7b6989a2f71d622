"""Three models at work on one scenario: retrieve, teach, verify, and back to the teacher with the verifier's reasons.

Workers share one queue, so that at most `concurrency` scenarios are in work; a teacher that never waits costs no turn of
the event loop. Results keep their scenarios' order, and each scenario draws from a random stream of its own: what comes
out does not depend on who finishes first. A run that crashed is simply run again: whatever a teacher answered is in its
endpoint's record, so the same results come out and nothing is asked twice.
"""

import asyncio
import contextlib
import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from components.shared.collaboration.budget import Bill, BudgetExhausted
from components.shared.collaboration.context_retriever import Retriever
from components.shared.collaboration.planner import Lesson, Plan, Planner
from components.shared.collaboration.teacher_planner import Assignment, OutOfReach, Teacher, UnreadableAnswer
from components.shared.collaboration.verifier import Verifier
from components.shared.collaboration.world import Document
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Attempt, Exhausted, Scenario, Trajectory, Unanswered
from components.shared.performance.performance_tracker import progress

BREATH = 64
"""Scenarios of one worker after which the event loop gets a turn, so that ctrl-C is heard."""
OUTAGE = 10
"""Scenarios in a row that found their endpoint out of reach, after which the run ends."""
NEW_OBJECTS = 50_000
"""New objects after which garbage is looked for: most of them are results, and at Python's 700 it takes 8 % of the CPU."""

Result = Trajectory | Exhausted | Unanswered


@dataclass
class Tally:
    """How things stand, for the progress display."""

    accepted: int = 0
    rejected: int = 0
    unanswered: int = 0
    in_flight: int = 0
    usd: float = 0.0
    out_of_reach: int = 0
    """Scenarios in a row that found no endpoint."""

    def count(self, result: Result, bill: Bill) -> None:
        self.in_flight -= 1
        self.usd += bill.cost.usd
        self.accepted += isinstance(result, Trajectory)
        self.rejected += isinstance(result, Exhausted)
        self.unanswered += isinstance(result, Unanswered)
        gone = isinstance(result, Unanswered) and result.rule == OutOfReach.rule
        self.out_of_reach = self.out_of_reach + 1 if gone else 0

    def __str__(self) -> str:
        parts = [f"{self.accepted} accepted", f"{self.rejected} rejected", f"{self.in_flight} in flight"]
        parts += [f"{self.unanswered} unanswered"] if self.unanswered else []
        parts += [f"{self.usd:.4f} USD"] if self.usd else []
        parts += [f"{self.usd / self.accepted:.5f} USD each"] if self.usd and self.accepted else []
        return f"trajectories ({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True)
class Orchestrator:
    """Makes trajectories of scenarios."""

    retriever: Retriever
    teachers: Mapping[str, Teacher]
    planner: Planner
    verifier: Verifier
    max_attempts: int
    """Attempts at one scenario, the first included."""
    seed: int
    concurrency: int = 1
    """Scenarios in work at once."""
    tally: Tally = field(default_factory=Tally)

    async def generate(self, scenarios: Sequence[Scenario]) -> list[Result]:
        """For each scenario, in order, a trajectory that passed, or all the attempts that did not, or why there are none.

        Raises PipelineError where no teacher can be asked at all; what is in work then is cancelled.
        """
        results: list[Result | None] = [None] * len(scenarios)
        queue = iter(progress(list(enumerate(scenarios)), self.tally.__str__))
        size = self.planner.round_size or len(scenarios) or 1
        try:
            with rarely_collected():
                for start in range(0, len(scenarios), size):
                    plans = dict(enumerate(self.planner.plan(scenarios[start : start + size]), start))
                    lessons = await self._round(islice(queue, size), plans, results)
                    self.planner.learn([lesson for _, lesson in sorted(lessons.items())])
            next(queue, None)
        finally:
            for teacher in self.teachers.values():
                await teacher.close()
        done = [result for result in results if result is not None]
        faults = [result.fault for result in done if isinstance(result, Unanswered)]
        if faults and len(faults) == len(done):
            raise PipelineError(faults[0])
        return done

    async def one(self, scenario: Scenario, plan: Plan, bill: Bill | None = None) -> Result:
        """One scenario, from retrieval to the last attempt."""
        rng = random.Random(f"{self.seed}/{scenario.id}")
        teacher = self.teachers[plan.teacher]
        context = await self._context(scenario, plan.depth)
        ids = tuple(document.id for document in context)
        assignment = Assignment(scenario=scenario, context=context, rng=rng, plan=plan, bill=bill or Bill())
        attempts: list[Attempt] = []
        for number in range(1, self.max_attempts + 1):
            try:
                attempt = await self._attempt(teacher, assignment, number)
            except (BudgetExhausted, OutOfReach) as fault:
                return Unanswered(
                    scenario=scenario, teacher=teacher.name, rule=fault.rule, fault=str(fault), attempts=tuple(attempts)
                )
            if attempt.verdict and attempt.verdict.passed:
                trajectory = self.verifier.trainer.trajectory(
                    scenario, attempt.steps, teacher=teacher.name, context=ids, attempt=number
                )
                return trajectory.model_copy(update={"verdict": attempt.verdict})
            attempts.append(attempt)
            assignment = assignment.again(reasons(attempt), attempt.steps)
        return Exhausted(scenario=scenario, teacher=teacher.name, context=ids, attempts=tuple(attempts))

    async def _context(self, scenario: Scenario, depth: int) -> tuple[Document, ...]:
        if self.retriever.waits:
            return await asyncio.to_thread(self.retriever.for_scenario, scenario, depth)
        return self.retriever.for_scenario(scenario, depth)

    async def _attempt(self, teacher: Teacher, assignment: Assignment, number: int) -> Attempt:
        try:
            steps = await teacher.teach(assignment)
        except UnreadableAnswer as fault:
            return Attempt(number=number, fault=str(fault), answer=fault.answer)
        return Attempt(number=number, steps=steps, verdict=self.verifier.verify(assignment.scenario, steps))

    async def _round(
        self, queue: Iterator[tuple[int, Scenario]], plans: Mapping[int, Plan], results: list[Result | None]
    ) -> dict[int, Lesson]:
        lessons: dict[int, Lesson] = {}
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.concurrency, len(plans))):
                    workers.create_task(self._work(queue, plans, results, lessons))
        except* PipelineError as failures:
            raise failures.exceptions[0] from None
        return lessons

    async def _work(
        self,
        queue: Iterator[tuple[int, Scenario]],
        plans: Mapping[int, Plan],
        results: list[Result | None],
        lessons: dict[int, Lesson],
    ) -> None:
        for done, (position, scenario) in enumerate(queue, 1):
            plan, bill = plans[position], Bill()
            self.tally.in_flight += 1
            result = results[position] = await self.one(scenario, plan, bill)
            self.tally.count(result, bill)
            if self.tally.out_of_reach >= OUTAGE and isinstance(result, Unanswered):
                raise PipelineError(result.fault)
            if not isinstance(result, Unanswered):
                lessons[position] = Lesson(scenario=scenario, plan=plan, score=last_score(result), usd=bill.cost.usd)
            if done % BREATH == 0:
                await asyncio.sleep(0)


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Garbage is looked for after NEW_OBJECTS new objects while the block lasts."""
    before = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def last_score(result: Trajectory | Exhausted) -> float:
    """The verifier's score of what came out last."""
    verdict = result.verdict if isinstance(result, Trajectory) else result.attempts[-1].verdict
    return verdict.score if verdict else 0.0


def reasons(attempt: Attempt) -> tuple[str, ...]:
    """What was wrong with an attempt, one line each."""
    return attempt.verdict.reasons if attempt.verdict else (attempt.fault or "no answer",)

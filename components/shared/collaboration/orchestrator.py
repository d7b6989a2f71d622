"""Three models at work on one scenario: retrieve, teach, verify, and back to the teacher with the verifier's reasons.

Workers share one queue, so that at most `concurrency` scenarios wait on a teacher; a teacher that never waits costs no
turn of the event loop. Results keep their scenarios' order, and each scenario draws from a random stream of its own: what
comes out does not depend on who finishes first.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.teacher_planner import Assignment, Teacher, UnreadableAnswer
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Attempt, Exhausted, Scenario, Trajectory
from components.shared.performance.performance_tracker import progress

BREATH = 64
"""Scenarios of one worker after which the event loop gets a turn, so that ctrl-C is heard."""


@dataclass(frozen=True, kw_only=True)
class Orchestrator:
    """Makes trajectories of scenarios."""

    retriever: ContextRetriever
    teacher: Teacher
    verifier: Verifier
    retrieval_depth: int
    """Documents put before the teacher."""
    max_attempts: int
    """Attempts at one scenario, the first included."""
    seed: int
    concurrency: int = 1
    """Scenarios in work at once."""

    async def generate(self, scenarios: Sequence[Scenario]) -> list[Trajectory | Exhausted]:
        """For each scenario, in order, a trajectory that passed, or all the attempts that did not.

        Raises PipelineError where the teacher stays out of reach; what is in work then is cancelled.
        """
        results: list[Trajectory | Exhausted | None] = [None] * len(scenarios)
        queue = iter(progress(list(enumerate(scenarios)), "trajectories"))
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.concurrency, len(scenarios))):
                    workers.create_task(self._work(queue, results))
        except* PipelineError as failures:
            raise failures.exceptions[0] from None
        finally:
            await self.teacher.close()
        return [result for result in results if result is not None]

    async def one(self, scenario: Scenario) -> Trajectory | Exhausted:
        """One scenario, from retrieval to the last attempt."""
        rng = random.Random(f"{self.seed}/{scenario.id}")
        context = self.retriever.for_scenario(scenario, self.retrieval_depth)
        ids = tuple(document.id for document in context)
        assignment = Assignment(scenario=scenario, context=context, rng=rng)
        attempts: list[Attempt] = []
        for number in range(1, self.max_attempts + 1):
            attempt = await self._attempt(assignment, number)
            if attempt.verdict and attempt.verdict.passed:
                trajectory = self.verifier.trainer.trajectory(
                    scenario, attempt.steps, teacher=self.teacher.name, context=ids, attempt=number
                )
                return trajectory.model_copy(update={"verdict": attempt.verdict})
            attempts.append(attempt)
            assignment = Assignment(
                scenario=scenario, context=context, rng=rng, feedback=reasons(attempt), previous=attempt.steps
            )
        return Exhausted(scenario=scenario, teacher=self.teacher.name, context=ids, attempts=tuple(attempts))

    async def _attempt(self, assignment: Assignment, number: int) -> Attempt:
        try:
            steps = await self.teacher.teach(assignment)
        except UnreadableAnswer as fault:
            return Attempt(number=number, fault=str(fault), answer=fault.answer)
        return Attempt(number=number, steps=steps, verdict=self.verifier.verify(assignment.scenario, steps))

    async def _work(self, queue: Iterator[tuple[int, Scenario]], results: list[Trajectory | Exhausted | None]) -> None:
        for done, (position, scenario) in enumerate(queue, 1):
            results[position] = await self.one(scenario)
            if done % BREATH == 0:
                await asyncio.sleep(0)


def reasons(attempt: Attempt) -> tuple[str, ...]:
    """What was wrong with an attempt, one line each."""
    return attempt.verdict.reasons if attempt.verdict else (attempt.fault or "no answer",)

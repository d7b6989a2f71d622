"""Each of the three models by itself, for a person who wants to see what it does with one scenario; `srl-rlvr ask` calls
them from the command line.

retrieve(source, query)                        the documents that a teacher would be shown
teach(trainer, scenario, teacher, retriever)   one attempt of a teacher, judged step by step
verify(trainer, scenario, steps)               the verifier's verdict on an answer
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from components.shared.collaboration.budget import Bill
from components.shared.collaboration.context_retriever import Retriever
from components.shared.collaboration.planner import Plan, Strategy
from components.shared.collaboration.teacher_planner import Assignment, Teacher
from components.shared.collaboration.verifier import Verifier
from components.shared.collaboration.world import Document
from components.shared.contracts.records import Scenario, Split, Step, Verdict
from components.shared.trainers.base_trainer import ModelTypeTrainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """A document that was found, and how well it fits."""

    document: Document
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """What a teacher wrote, and what it cost."""

    steps: tuple[Step, ...]
    context: tuple[Document, ...]
    usd: float
    tokens: int


class Answered(BaseModel):
    """A scenario and steps for it, whatever else is said of them."""

    scenario: Scenario
    steps: tuple[Step, ...]


def draw(trainer: ModelTypeTrainer, seed: int = 0, split: Split = Split.TRAIN) -> Scenario:
    """A scenario to try things on."""
    return next(trainer.scenarios(random.Random(f"{seed}/{split}"), 1, [split]))


def retrieve(retriever: Retriever, query: str, depth: int = 4) -> list[Lookup]:
    """The best documents for a query."""
    return [Lookup(document=retriever.document(h.id), score=h.score) for h in retriever.retrieve(query, depth)]


def teach(
    scenario: Scenario,
    teacher: Teacher,
    retriever: Retriever,
    *,
    depth: int = 4,
    strategy: Strategy = Strategy.EXAMPLES,
    step_budget: int | None = None,
    feedback: Sequence[str] = (),
    seed: int = 0,
) -> Taught:
    """One attempt. Raises UnreadableAnswer where it gave no steps, and PipelineError where nobody could be asked."""
    plan = Plan(teacher=teacher.name, strategy=strategy, depth=depth, step_budget=step_budget)
    context, bill = retriever.for_scenario(scenario, depth), Bill()
    rng = random.Random(f"{seed}/{scenario.id}")
    assignment = Assignment(scenario=scenario, context=context, rng=rng, plan=plan, feedback=tuple(feedback), bill=bill)

    async def once() -> tuple[Step, ...]:
        try:
            return await teacher.teach(assignment)
        finally:
            await teacher.close()

    steps = asyncio.run(once())
    return Taught(steps=steps, context=context, usd=bill.cost.usd, tokens=bill.cost.tokens)


def verify(trainer: ModelTypeTrainer, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
    """The verdict on steps, passed from the model type's own threshold on."""
    return Verifier(trainer, trainer.pass_score).verify(scenario, steps)

"""Teachers: who writes an expert's steps for a scenario, and how an endpoint's answer becomes steps.

Whatever answers over a wire is read strictly: JSON by one schema, titles from the model type's closed list, text that the
trainer can parse. What cannot be read goes back once, with the fault; then it is an attempt that failed.
"""

import functools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from components.shared.collaboration.budget import Bill
from components.shared.collaboration.context_retriever import render_fact
from components.shared.collaboration.planner import Plan, Strategy
from components.shared.collaboration.world import Document
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Scenario, Split, Step
from components.shared.trainers.base_trainer import Habits, ModelTypeTrainer

if TYPE_CHECKING:
    from components.shared.collaboration.endpoint import Endpoint

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)
EXAMPLES = 6
"""Worked examples of the format that an endpoint is shown."""


class UnreadableAnswer(Exception):
    """An attempt that gave no steps: why, and the answer as it came, where there was one."""

    def __init__(self, reason: str, answer: str | None = None):
        super().__init__(reason)
        self.answer = answer


class OutOfReach(PipelineError):
    """The teacher did not answer, however often it was asked: this scenario has no result."""

    rule = "out_of_reach"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One attempt asked of a teacher."""

    scenario: Scenario
    context: tuple[Document, ...]
    rng: random.Random
    """The scenario's own stream: nothing else draws from it, so no order of work can change what comes out."""
    plan: Plan
    feedback: tuple[str, ...] = ()
    """What the verifier found wrong with the attempt before."""
    previous: tuple[Step, ...] = ()
    """That attempt, where it could be read."""
    bill: Bill = field(default_factory=Bill)
    """Where the teacher adds what it costs."""

    def again(self, feedback: Sequence[str], previous: Sequence[Step]) -> "Assignment":
        """The next attempt at the same scenario, from the same stream and on the same bill."""
        return replace(self, feedback=tuple(feedback), previous=tuple(previous))


class Teacher(Protocol):
    """Writes expert steps."""

    name: str
    """Who a trajectory says wrote it."""
    spent: Counter[str]
    """What it used so far: requests and tokens, where it uses any."""

    async def teach(self, assignment: Assignment) -> tuple[Step, ...]:
        """Steps for the scenario, each with the step judge's reward.

        Raises UnreadableAnswer for an attempt that gave none, and PipelineError where no attempt can succeed.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class ScriptedTeacher:
    """The model type's scripted expert, slips included; it needs no network and never waits."""

    def __init__(self, trainer: ModelTypeTrainer):
        self.name = "scripted"
        self.spent: Counter[str] = Counter()
        self._trainer = trainer

    async def teach(self, assignment: Assignment) -> tuple[Step, ...]:
        trainer = self._trainer
        return trainer.demonstrate(assignment.scenario, assignment.rng, trainer.teacher, assignment.feedback)

    async def close(self) -> None:
        pass


class DraftStep(BaseModel):
    """One step as an endpoint writes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    text: str = Field(min_length=1)


class Draft(BaseModel):
    """An endpoint's whole answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    thoughts: str | None = None
    """What it thought before, where it was given room to; nothing reads it."""
    steps: list[DraftStep] = Field(min_length=1)


class OpenAITeacher:
    """A model behind any endpoint of OpenAI's chat completions API."""

    def __init__(self, trainer: ModelTypeTrainer, endpoint: "Endpoint"):
        self.name = endpoint.model
        self.spent = endpoint.spent
        self._trainer = trainer
        self._endpoint = endpoint
        self._schemas = {strategy: answer_schema(trainer, strategy) for strategy in Strategy}
        self._instructions = functools.cache(functools.partial(instructions, trainer))

    async def teach(self, assignment: Assignment) -> tuple[Step, ...]:
        messages = [
            {"role": "system", "content": self._instructions(assignment.plan.strategy)},
            {"role": "user", "content": question(self._trainer, assignment)},
        ]
        answer = await self._ask(messages, assignment)
        try:
            return self._read(assignment, answer)
        except UnreadableAnswer as fault:
            repair = f"That cannot be read: {fault}. Reply with the corrected JSON alone."
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": repair}]
        return self._read(assignment, await self._ask(messages, assignment))

    def _read(self, assignment: Assignment, answer: str) -> tuple[Step, ...]:
        steps = read_steps(self._trainer, assignment.scenario, answer)
        budget = assignment.plan.step_budget
        if budget is not None and len(steps) > budget:
            raise UnreadableAnswer(f"{len(steps)} steps, at most {budget} are allowed", answer)
        return steps

    async def _ask(self, messages: Sequence[dict[str, str]], assignment: Assignment) -> str:
        seed = assignment.rng.getrandbits(31)
        return await self._endpoint.complete(
            messages, self._schemas[assignment.plan.strategy], seed=seed, bill=assignment.bill
        )

    async def close(self) -> None:
        await self._endpoint.close()


def read_steps(trainer: ModelTypeTrainer, scenario: Scenario, answer: str) -> tuple[Step, ...]:
    """An endpoint's answer as judged steps. Raises UnreadableAnswer with what is wrong with it."""
    try:
        drafts = Draft.model_validate_json(answer).steps
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "answer"
        raise UnreadableAnswer(f"{where}: {fault['msg']}", answer) from error
    for number, draft in enumerate(drafts, 1):
        if draft.title not in trainer.step_titles:
            known = ", ".join(trainer.step_titles)
            raise UnreadableAnswer(f"step {number} has the title {draft.title!r}, not one of {known}", answer)
    steps = [
        Step(index=index, title=draft.title, text=" ".join(draft.text.split()), action={}, reward=0.0)
        for index, draft in enumerate(drafts, 1)
    ]
    whole = trainer.parse(scenario, trainer.completion(steps))
    if whole is None:
        raise UnreadableAnswer(f"the steps' texts do not follow the format of {trainer.name}", answer)
    steps = [step.model_copy(update={"action": trainer.step_action(whole, step)}) for step in steps]
    rewards = trainer.judge(scenario, steps)
    return tuple(step.model_copy(update={"reward": reward}) for step, reward in zip(steps, rewards, strict=True))


def answer_schema(trainer: ModelTypeTrainer, strategy: Strategy = Strategy.EXAMPLES) -> dict[str, Any]:
    """JSON schema of a `Draft` with the model type's titles, in the subset that strict structured outputs take."""
    thoughts = {"thoughts": {"type": "string"}} if strategy == Strategy.THOUGHTS else {}
    step = {
        "type": "object",
        "properties": {"title": {"type": "string", "enum": list(trainer.step_titles)}, "text": {"type": "string"}},
        "required": ["title", "text"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {**thoughts, "steps": {"type": "array", "items": step}},
        "required": [*thoughts, "steps"],
        "additionalProperties": False,
    }


def instructions(trainer: ModelTypeTrainer, strategy: Strategy = Strategy.EXAMPLES) -> str:
    """What holds for every scenario of a model type: the world, its rules, the words and the format."""
    world = trainer.world
    cast = [f"- {p.id}: {p.name}, {p.role}, {p.order}, at {p.home}; {p.voice}" for p in world.personas]
    rules = [f"- {rule.message}" for rule in world.rules_for(trainer.name)]
    rng = random.Random(trainer.name)
    count = 1 if strategy == Strategy.BRIEF else EXAMPLES
    examples = [
        f"Situation: {scenario.prompt}\nAnswer: {_as_answer(trainer.demonstrate(scenario, rng, FLAWLESS))}"
        for scenario in trainer.scenarios(rng, count, [Split.TRAIN])
    ]
    thoughts = strategy == Strategy.THOUGHTS
    shape = '{"thoughts": ..., "steps": [...]}' if thoughts else '{"steps": [...]}'
    parts = {
        "World": [world.summary],
        "People": cast,
        "Rules": rules,
        "Words that a step's text may use": [" ".join(trainer.vocabulary())],
        "Answer": [
            f'Reply with JSON alone: {shape}, each step {{"title": ..., "text": ...}}, steps in order, '
            f"titles from {', '.join(trainer.step_titles)}, texts in the form of the examples.",
            *(["In thoughts, go through the facts and rules that decide the answer, before the steps."] * thoughts),
        ],
        "Examples": examples,
    }
    return "\n\n".join(f"# {head}\n" + "\n".join(lines) for head, lines in parts.items() if lines)


def question(trainer: ModelTypeTrainer, assignment: Assignment) -> str:
    """What one attempt asks: the prompt, what is known about it, and what was wrong before.

    The scenario's state stays out of it: it holds what the verifier derives the right answer from.
    """
    named = set(assignment.scenario.prompt.split())
    parts = {
        "Facts": [render_fact(fact) for fact in trainer.world.facts if fact.id in named],
        "Lore": [f"{document.title}: {document.text}" for document in assignment.context],
        "Situation": [assignment.scenario.prompt],
        "Length": [f"At most {budget} steps."] if (budget := assignment.plan.step_budget) else [],
        "Your last answer": [_as_answer(assignment.previous)] if assignment.previous else [],
        "What was wrong with it": [f"- {reason}" for reason in assignment.feedback],
    }
    return "\n\n".join(f"# {head}\n" + "\n".join(lines) for head, lines in parts.items() if lines)


def _as_answer(steps: Sequence[Step]) -> str:
    answer: dict[str, JsonValue] = {"steps": [{"title": step.title, "text": step.text} for step in steps]}
    return json.dumps(answer, ensure_ascii=False)

"""Reasoning: problems that reasoning-gym draws and scores, worked step by step in a closed vocabulary.

Tasks and ranges come from configs/model_types/reasoning.yaml; the world lends the scenarios only its name. The state is
the gym's entry: its question in natural language stays there, the prompt puts the same problem in words. The judges:

    judge, verify   units and completeness, and that the answer follows from the units in some sense of the task;
                    blind to the sense asked for (direction, keep or remove, backward or forward)
    reward          reasoning-gym's score_answer on the answer, and small graded terms
    check           the gym's full marks and, by itself, equality with the entry's own answer
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from components.shared.collaboration.text_criteria import TextCriteria
from components.shared.collaboration.world import World
from components.shared.contracts.errors import CorruptArtifact, UsageError, unknown
from components.shared.contracts.records import Scenario, Step, Verdict
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_yaml
from components.shared.trainers.base_trainer import Action, Check, Habits, ModelTypeTrainer, Reward
from components.shared.trainers.reasoning_steps import (
    ANSWER,
    NOTHING,
    faults_of,
    overlap,
    parse_completion,
    step_rewards,
    unreadable,
    work,
)
from components.shared.trainers.reasoning_tasks import TASKS, Entry, Problem, Task, Unit

VERIFY_WEIGHTS = {"work": 0.5, "count": 0.25, "answer": 0.25}
REWARD_WEIGHTS = {"answer": 0.7, "content": 0.2, "format": 0.1}


class ReasoningConfig(BaseModel):
    """configs/model_types/reasoning.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: int = Field(default=50, ge=10)
    """Hash buckets a task; each is in one split."""
    tasks: dict[str, dict[str, JsonValue] | None] = Field(min_length=1)
    """Options of each task, by reasoning-gym's names."""


class ReasoningTrainer(ModelTypeTrainer):
    """Model type `reasoning`."""

    name = "reasoning"
    step_titles = (*dict.fromkeys(task.title for task in TASKS.values()), ANSWER)
    text_criteria = TextCriteria(distinct=0.5, repeated_n=6, repeated=0.2)  # a list may hold one number several times
    teacher: ClassVar[Habits] = Habits(visible=0.45, hidden=0.3, noise=0.02)
    folk: ClassVar[Habits] = Habits(visible=0.3, hidden=0.1, noise=0.1)

    def __init__(self, world: World):
        super().__init__(world)
        config = load_config()
        self.groups = config.groups
        self.tasks = {name: create_task(name, options or {}) for name, options in config.tasks.items()}
        self._names = sorted(self.tasks)

    def sample_state(self, rng: random.Random) -> tuple[str, dict[str, JsonValue], float]:
        task = self.tasks[rng.choice(self._names)]
        entry, problem = task.draw(rng)
        shortest, longest = task.lengths
        difficulty = (len(problem.operands) - shortest) / max(1, longest - shortest)
        return self.group_of(task, problem), {"task": task.name, **entry}, difficulty

    def group_of(self, task: Task, problem: Problem) -> str:
        """The bucket of a problem's operands in any order: all orders, senses and bounds of a list stay together."""
        digest = hashlib.sha256(" ".join(sorted(problem.operands)).encode()).digest()
        return f"{task.name}/{int.from_bytes(digest[:8], 'big') % self.groups:02d}"

    def prompt(self, state: dict[str, JsonValue]) -> str:
        task, problem, _ = self._read(state)
        return " ".join(task.prompt(problem))

    def vocabulary(self) -> Sequence[str]:
        return sorted({ANSWER, NOTHING}.union(*(task.closed for task in self.tasks.values())))

    def parse(self, scenario: Scenario, text: str) -> Action | None:
        task, _, _ = self._read(scenario.state)
        said = parse_completion(task, text)
        if said is None:
            return None
        units, answer = said
        return {"work": [action_of(task, unit) for unit in units], "answer": list(answer)}

    def steps_of(self, scenario: Scenario, text: str) -> tuple[Step, ...] | None:
        task, _, _ = self._read(scenario.state)
        said = parse_completion(task, text)
        return None if said is None else steps_saying(task, *said)

    def step_action(self, action: Action, step: Step) -> Action:
        if step.title == ANSWER:
            return {ANSWER: action[ANSWER]}
        work: Any = action["work"]
        return work[step.index - 1]

    def demonstrate(
        self, scenario: Scenario, rng: random.Random, habits: Habits, feedback: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        task, problem, _ = self._read(scenario.state)
        mended = {reason.partition(":")[0] for reason in feedback}
        units = work(task, problem, rng, habits, mended)
        sense = problem.sense if rng.random() < habits.hidden else task.naive(problem.sense)
        if rng.random() < habits.noise:
            sense = rng.choice(task.senses)
        steps = steps_saying(task, units, task.conclude(units, sense))
        rewards = step_rewards(faults_of(task, problem, [step.text for step in steps]))
        return tuple(step.model_copy(update={"reward": r}) for step, r in zip(steps, rewards, strict=True))

    def judge(self, scenario: Scenario, steps: Sequence[Step]) -> list[float]:
        task, problem, _ = self._read(scenario.state)
        return step_rewards(faults_of(task, problem, [step.text for step in steps]))

    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        task, problem, _ = self._read(scenario.state)
        found = faults_of(task, problem, [step.text for step in steps])
        worked, expected = len(steps) - 1, len(problem.operands)
        gates = {"schema": bool(found) and not any(map(unreadable, found))}
        criteria = {
            "work": sum(fault is None for fault in found[:-1][:expected]) / max(worked, expected),
            "count": float(worked == expected),
            "answer": float(bool(found) and found[-1] is None),
        }
        graded = sum(VERIFY_WEIGHTS[name] * value for name, value in criteria.items())
        score = round(0.6 * graded + 0.4 * all(v == 1 for v in criteria.values()), 6) if all(gates.values()) else 0.0
        return Verdict(
            verifier=f"{self.name}/process@{self.version}",
            score=score,
            passed=score >= self.pass_score,
            gates=gates,
            criteria=criteria,
            reasons=tuple(fault for fault in found if fault) if found else ("schema: no steps: work the problem",),
        )

    def reward(self, scenario: Scenario, text: str) -> Reward:
        task, problem, entry = self._read(scenario.state)
        said = parse_completion(task, text)
        if said is None:
            return Reward(total=0.0, components=dict.fromkeys(REWARD_WEIGHTS, 0.0), gate="schema")
        units, answer = said
        components = {
            "answer": task.score(entry, answer),
            "content": overlap(answer, task.canonical(entry["answer"])),
            "format": float(len(units) == len(problem.operands)),
        }
        total = sum(REWARD_WEIGHTS[name] * value for name, value in components.items())
        return Reward(total=round(total, 6), components=components)

    def check(self, scenario: Scenario, text: str) -> Check:
        task, _, entry = self._read(scenario.state)
        said = parse_completion(task, text)
        if said is None:
            return Check(score=0.0, correct=False, faults=("schema",))
        answer, truth = said[1], task.canonical(entry["answer"])
        faults = [] if task.score(entry, answer) == 1.0 else ["reasoning_gym"]
        if answer != truth:
            faults.append("order" if sorted(answer) == sorted(truth) else "content")
        in_place = sum(a == t for a, t in zip(answer, truth, strict=False)) / max(len(answer), len(truth), 1)
        return Check(score=in_place / 2 if faults else 1.0, correct=not faults, faults=tuple(faults))

    def _read(self, state: dict[str, JsonValue]) -> tuple[Task, Problem, Entry]:
        """A state's task, problem and entry.

        The answer that lies there must be the one worked here: the gym evaluates an entry's answer as Python, and a
        state comes from disk. Raises UsageError for a task that is not configured, CorruptArtifact for another fault.
        """
        name = str(state.get("task"))
        if name not in self.tasks:
            raise unknown("reasoning task", name, self.tasks)
        task = self.tasks[name]
        entry: Entry = {key: value for key, value in state.items() if key != "task"}
        try:
            problem = task.read(entry["metadata"])
            sound = problem.sense in task.senses and task.canonical(entry["answer"]) == task.right(problem)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptArtifact(f"{name}: malformed entry ({error!r}): generate the scenario again") from error
        if not sound:
            raise CorruptArtifact(
                f"{name}: {entry['answer']!r} does not answer its question: generate the scenario again"
            )
        return task, problem, entry


def steps_saying(task: Task, units: Sequence[Unit], answer: Sequence[str]) -> tuple[Step, ...]:
    """The steps that say worked units and an answer, not judged yet."""
    lines: list[tuple[str, str, Action]] = [(task.title, " ".join(unit), action_of(task, unit)) for unit in units]
    lines.append((ANSWER, " ".join([ANSWER, *(answer or [NOTHING])]), {"answer": list(answer)}))
    return tuple(
        Step(index=i, title=title, text=text, action=action, reward=0.0)
        for i, (title, text, action) in enumerate(lines, 1)
    )


def action_of(task: Task, unit: Unit) -> Action:
    """A worked step as typed fields."""
    return dict(zip(task.fields, unit, strict=True))


def load_config() -> ReasoningConfig:
    """The configured tasks. Raises UsageError naming the file and the fault."""
    path = configs_root() / "model_types" / "reasoning.yaml"
    try:
        return ReasoningConfig.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        raise _refused(str(path), error, ReasoningConfig) from error


def create_task(name: str, options: dict[str, JsonValue]) -> Task:
    """A task with its options. Raises UsageError for an unknown name or option, or a value out of range."""
    if name not in TASKS:
        raise unknown("reasoning task", name, TASKS)
    try:
        return TASKS[name](TASKS[name].options_type.model_validate(options))
    except ValidationError as error:
        raise _refused(f"task {name}", error, TASKS[name].options_type) from error


def _refused(what: str, error: ValidationError, shape: type[BaseModel]) -> UsageError:
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return unknown(f"key in {what}", where, shape.model_fields)
    return UsageError(f"{what}: {where}: {fault['msg']}, not {fault['input']!r}: mend it")

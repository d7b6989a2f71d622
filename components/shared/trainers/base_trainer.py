"""What a model type is: how its scenarios arise, how a policy is prompted, and the three judges of what comes back.

The judges are kept apart by design, so that none can be learned by pleasing another:

    judge    a step by itself, for SRL's weights: local soundness, blind to what only the outcome shows
    verify   an expert's trajectory, for the gate before training: hard gates and graded criteria over the steps
    reward   a policy's answer, for RLVR: outcome in [0, 1]
    check    a policy's answer, for evaluation: strict, from the world's rules as data, never used as a reward

To add a model type, write one file beside this one and name it in trainer_factory.py.
"""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import JsonValue

from components.shared.collaboration.text_criteria import TextCriteria
from components.shared.collaboration.world import World
from components.shared.contracts.records import Scenario, Split, Step, Trajectory, Verdict, content_id

Action = dict[str, JsonValue]
"""A policy's whole answer as typed fields, by the model type's schema."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """An outcome reward and where it came from."""

    total: float
    """In [0, 1]; 0 where a gate failed."""
    components: dict[str, float]
    """Graded terms by name, each in [0, 1]."""
    gate: str | None = None
    """The hard gate that failed, if any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What evaluation records of one answer."""

    score: float
    """1 where the answer is right in everything that matters, else the share that is, halved."""
    correct: bool
    faults: tuple[str, ...]
    """Ids of the rules or facts it breaks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How often a scripted speaker does right. The slips are the systematic ones that real teachers make."""

    visible: float
    """Chance to keep a rule that a single step shows."""
    hidden: float
    """Chance to keep a rule that only the outcome shows."""
    noise: float
    """Chance of a random choice at a decision."""


class ModelTypeTrainer(ABC):
    """Base of every model type. Instances hold no state beside the world and their own options."""

    name: ClassVar[str]
    """The model type's name, as configurations say it."""
    version: ClassVar[int] = 1
    """Raised when a judge changes its mind about anything; part of every verdict."""
    step_titles: ClassVar[tuple[str, ...]]
    """The closed list of step titles, in order."""
    pass_score: ClassVar[float] = 0.7
    """Verdict score from which a trajectory may be trained on."""
    text_criteria: ClassVar[TextCriteria] = TextCriteria()
    """How an answer may read, beside what `verify` finds in it."""
    teacher: ClassVar[Habits]
    """The scripted expert's habits: fixed before anything is trained."""
    folk: ClassVar[Habits]
    """The habits of the text that the local base models are pre-trained on."""

    def __init__(self, world: World):
        self.world = world

    # ---- scenarios --------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample_state(self, rng: random.Random) -> tuple[str, dict[str, JsonValue], float]:
        """Draw one situation: its group, its state and its difficulty in [0, 1]."""

    @abstractmethod
    def prompt(self, state: dict[str, JsonValue]) -> str:
        """What the policy reads for a state: words of `vocabulary`, separated by single spaces."""

    def scenarios(self, rng: random.Random, count: int, splits: Sequence[Split]) -> Iterator[Scenario]:
        """`count` distinct scenarios whose groups fall in `splits`.

        Raises ValueError when the world yields no new one in 200 draws in a row.
        """
        seen: set[str] = set()
        idle = 0
        while len(seen) < count:
            group, state, difficulty = self.sample_state(rng)
            split = self.split_of(group)
            scenario_id = self.scenario_id(state)
            idle += 1
            if split in splits and scenario_id not in seen:
                seen.add(scenario_id)
                idle = 0
                yield Scenario(
                    id=scenario_id,
                    model_type=self.name,
                    group=group,
                    split=split,
                    prompt=self.prompt(state),
                    state=state,
                    difficulty=difficulty,
                )
            if idle > 200 * max(1, len(seen)):
                raise ValueError(f"{self.name}: only {len(seen)} of {count} distinct scenarios in {', '.join(splits)}")

    def scenario_id(self, state: dict[str, JsonValue]) -> str:
        """The identity of the scenario with this state."""
        return content_id(self.name, self.world.name, state)

    def scenario_from(self, prompt: str, answer: str | None = None) -> Scenario | None:
        """The scenario of a prompt that came from elsewhere, with its known answer; none where it is none of this type."""
        return None

    def split_of(self, group: str) -> Split:
        """The split of a group, by its name alone, so that added data moves nothing: 20 % test, 5 % validation."""
        point = int(hashlib.sha256(f"{self.name}/{group}".encode()).hexdigest(), 16) % 100
        return Split.TEST if point < 20 else Split.VALIDATION if point < 25 else Split.TRAIN

    # ---- text -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def vocabulary(self) -> Sequence[str]:
        """Every word that prompts and completions use: the local family's tokenizer is built from these."""

    @abstractmethod
    def parse(self, scenario: Scenario, text: str) -> Action | None:
        """The typed action that a completion says, or none where it does not follow the schema."""

    def completion(self, steps: Sequence[Step]) -> str:
        """The steps as the text that a policy is to write."""
        return " ".join(step.text for step in steps)

    @abstractmethod
    def steps_of(self, scenario: Scenario, text: str) -> tuple[Step, ...] | None:
        """`completion` backwards: the steps that a policy's answer says, not judged yet; none where `parse` gives none."""

    def step_action(self, action: Action, step: Step) -> Action:
        """What one step says of a whole answer's typed fields: those kept under its title, else all of them."""
        part = action.get(step.title, action)
        return part if isinstance(part, dict) else {step.title: part}

    # ---- expert -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def demonstrate(
        self, scenario: Scenario, rng: random.Random, habits: Habits, feedback: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        """A scripted expert's steps, with the slips of `habits`, each with the step judge's reward.

        `feedback` holds the reasons of the verdict that sent an earlier attempt back; the expert mends what they name.
        """

    # ---- judges -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def judge(self, scenario: Scenario, steps: Sequence[Step]) -> list[float]:
        """A reward in [0, 1] for each step by itself."""

    @abstractmethod
    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        """Hard gates and graded criteria over an expert's steps; blind to what only the outcome shows."""

    @abstractmethod
    def reward(self, scenario: Scenario, text: str) -> Reward:
        """RLVR's outcome reward for a completion."""

    @abstractmethod
    def check(self, scenario: Scenario, text: str) -> Check:
        """Evaluation's strict check of a completion, derived without `reward`."""

    # ---- hand-over --------------------------------------------------------------------------------------------------

    def corpus(self, rng: random.Random, count: int) -> Iterator[str]:
        """`count` texts of prompt and completion by folk habits, from training groups only, to pre-train a base on."""
        while count > 0:
            batch = min(count, 1000)
            for scenario in self.scenarios(rng, batch, [Split.TRAIN]):
                yield f"{scenario.prompt} {self.completion(self.demonstrate(scenario, rng, self.folk))}"
            count -= batch

    def trajectory_id(self, scenario: Scenario, steps: Sequence[Step]) -> str:
        """The identity of these steps as an answer to the scenario."""
        return content_id(scenario.id, [step.text for step in steps])

    def trajectory(
        self, scenario: Scenario, steps: Sequence[Step], *, teacher: str, context: Sequence[str], attempt: int
    ):
        """A trajectory of these steps, identified by its content."""
        return Trajectory(
            id=self.trajectory_id(scenario, steps),
            scenario=scenario,
            teacher=teacher,
            context=tuple(context),
            steps=tuple(steps),
            attempt=attempt,
        )

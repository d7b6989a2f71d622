"""How a scenario is taught: which teacher, asked in which way, with how much context and room.

`FixedPlanner` always says the same. The contextual bandit that learns from what the verifier found is in bandit.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from components.shared.contracts.records import Record, Scenario


class Strategy(StrEnum):
    """How an endpoint is asked; the scripted expert takes no notice."""

    EXAMPLES = "examples"
    """Instructions with worked examples."""
    BRIEF = "brief"
    """Instructions with a single example: the fewest tokens."""
    THOUGHTS = "thoughts"
    """Worked examples, and room to think in a field of its own before the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One way to teach."""

    teacher: str
    strategy: Strategy = Strategy.EXAMPLES
    depth: int = 4
    """Documents that the retriever puts before the teacher."""
    step_budget: int | None = None
    """Most steps that the teacher may write; none for as many as it likes."""

    @property
    def name(self) -> str:
        return f"{self.teacher}/{self.strategy}/depth={self.depth}/steps={self.step_budget or 'any'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What came of a plan."""

    scenario: Scenario
    plan: Plan
    score: float
    """The verifier's score of the last attempt, 0 where it could not be read."""
    usd: float


class PlannerState(Record):
    """What was learnt of one model type, as sums over lessons; features that are not in use keep their sums."""

    model_type: str
    features: tuple[str, ...]
    products: tuple[tuple[float, ...], ...]
    """Sum of the features' outer products, F x F."""
    moments: tuple[float, ...]
    """Sum of features times reward, F."""
    squares: float = Field(ge=0)
    """Sum of squared rewards."""
    lessons: int = Field(ge=0)


class Planner(Protocol):
    """Decides how scenarios are taught. Decisions of one round depend on the rounds before it alone, so that neither the
    order in which answers arrive nor a crash changes them."""

    @property
    def round_size(self) -> int | None:
        """Scenarios that are planned together; none for all at once."""
        ...

    def plan(self, scenarios: Sequence[Scenario]) -> list[Plan]:
        """A plan for each scenario, in order."""
        ...

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """Take in what came of a round."""
        ...


@dataclass(frozen=True)
class FixedPlanner:
    """The same plan for every scenario."""

    fixed: Plan
    round_size: int | None = None

    def plan(self, scenarios: Sequence[Scenario]) -> list[Plan]:
        return [self.fixed] * len(scenarios)

    def learn(self, lessons: Sequence[Lesson]) -> None:
        pass

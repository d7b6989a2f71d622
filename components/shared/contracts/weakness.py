"""Where a policy fails, as the weakness detector reports it and the example generator reads it.

An evaluation's report holds `ANSWERS`, one `Evaluated` a line, and `WEAKNESSES`, one `WeaknessReport`.
"""

from pydantic import Field, JsonValue

from components.shared.contracts.records import Record, Scenario, Score

ANSWERS = "answers.jsonl"
WEAKNESSES = "weaknesses.json"


class Checked(Record):
    """What evaluation's check said of one greedy answer."""

    score: float = Score
    correct: bool
    faults: tuple[str, ...]
    """Ids of the rules or facts that it breaks."""


class Evaluated(Record):
    """One held-out scenario with what each policy made of it."""

    scenario: str
    """Its id."""
    traits: dict[str, str]
    """Fields of its state that sort scenarios into kinds: persona, manner, task and the like."""
    difficulty: float = Score
    outcomes: dict[str, Checked]
    """By role: candidate, champion and whoever else was asked."""


class Weakness(Record):
    """A slice of a model type's scenarios in which the policy fails more often than elsewhere."""

    name: str
    """What a person calls it."""
    state: dict[str, JsonValue] = {}
    """Fields of a scenario's state and the values that they have in the slice."""
    difficulty: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest difficulty in the slice."""
    failure_rate: float = Score
    count: int = Field(ge=1)
    """Scenarios of the slice that were evaluated."""
    elsewhere: float | None = Field(default=None, ge=0, le=1)
    """Failure rate where the slice is cut from: among all others, or, for a slice of two fields, within one of them."""
    p_value: float | None = Field(default=None, ge=0, le=1)
    """Chance of such a difference where there is none, adjusted for all slices that were looked at."""
    rules: dict[str, int] = {}
    """How many answers of the slice break each rule, the commonest first."""
    scenarios: tuple[str, ...] = ()
    """Ids of some scenarios that failed: the evidence."""

    def covers(self, scenario: Scenario) -> bool:
        """Whether a scenario lies in the slice."""
        low, high = self.difficulty
        return low <= scenario.difficulty <= high and all(
            scenario.state.get(field) == value for field, value in self.state.items()
        )


class FailureMode(Record):
    """Rules that are broken together, as one thing to mend."""

    rules: tuple[str, ...] = Field(min_length=1)
    count: int = Field(ge=1)
    """Answers that break any of them."""
    rate: float = Score
    """Their share of all answers, with its 95 % interval (Wilson)."""
    low: float = Score
    high: float = Score
    scenarios: tuple[str, ...]


class Degradation(Record):
    """Something that the policy does worse than the last accepted version, on the same scenarios."""

    name: str
    """A rule, a slice, or `all scenarios`."""
    before: float = Score
    """Failure rate of the last accepted version."""
    now: float = Score
    count: int = Field(ge=1)
    worse: int
    """Scenarios that the accepted version got right and this policy does not."""
    better: int
    """The other way round."""
    p_value: float = Score
    """Of an exact McNemar test, adjusted for everything that was compared."""


class WeaknessReport(Record):
    """What was found in one evaluation."""

    model_type: str
    policy: str
    """Digest of the policy's manifest."""
    weaknesses: tuple[Weakness, ...]
    modes: tuple[FailureMode, ...] = ()
    """The commonest first."""
    degraded: tuple[Degradation, ...] = ()
    """The most certain first; empty where nothing can be shown to be worse."""

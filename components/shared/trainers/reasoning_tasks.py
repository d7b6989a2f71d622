"""Tasks of reasoning-gym in a closed vocabulary: how each is put, worked and concluded in words.

reasoning-gym draws the problem, holds the answer and scores; this module only renders. A task is worked in units, one
for each operand (a number or a letter), and the answer is concluded from the units in one of the task's senses (an
order, or which side to keep). A unit can be judged by itself; which sense was asked for shows only in the answer.

    number_filtering remove larger 7 first 5 second 9 third 7 =
    first 5 below | second 9 above | third 7 equal | answer 5 7

To add a task, subclass Task and name it in TASKS.
"""

import functools
import json
import random
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.contracts.errors import UsageError

Unit = tuple[str, ...]
"""The words of one worked step."""
Entry = dict[str, Any]
"""What reasoning-gym gives for a problem: question, answer, metadata."""

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NEAR = 5
"""Width of the bands within which a careless speaker does not tell numbers apart."""
DRAWS = 1000
"""Draws in a row outside the closed vocabulary after which a configuration is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One entry of reasoning-gym, read."""

    operands: tuple[str, ...]
    """Numbers or letters as words, in the order of the question."""
    sense: str
    """The order or selection asked for, one of the task's senses."""
    bound: int = 0
    """What number_filtering compares with."""


class Options(BaseModel):
    """Options of one task, by reasoning-gym's names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NumberOptions(Options):
    """Ranges of a list of whole numbers."""

    min_numbers: int = Field(default=3, ge=2)
    max_numbers: int = Field(default=5, le=len(ORDINALS))
    min_value: int = Field(default=1, ge=0)
    max_value: int = Field(default=20, le=99)

    @model_validator(mode="after")
    def _ordered(self) -> "NumberOptions":
        if self.min_numbers > self.max_numbers or self.min_value >= self.max_value:
            raise ValueError("a minimum is above its maximum")
        return self


class WordOptions(Options):
    """Ranges of a word's length in letters."""

    min_word_len: int = Field(default=3, ge=3)
    max_word_len: int = Field(default=5, le=len(ORDINALS))

    @model_validator(mode="after")
    def _ordered(self) -> "WordOptions":
        if self.min_word_len > self.max_word_len:
            raise ValueError("a minimum is above its maximum")
        return self


class Task(ABC):
    """One task of reasoning-gym. Holds its options and the gym's data set, which is made when first needed."""

    name: ClassVar[str]
    """reasoning-gym's name for it."""
    title: ClassVar[str]
    """Title of its worked steps."""
    rule: ClassVar[str]
    """What a unit has to keep, as feedback names it."""
    fields: ClassVar[tuple[str, ...]]
    """Names of a unit's slots."""
    senses: ClassVar[tuple[str, ...]]
    """What an answer can be concluded by."""
    options_type: ClassVar[type[Options]]
    words: ClassVar[tuple[str, ...]]
    """Words of its prompt beside its own name and its operands."""

    def __init__(self, options: Options):
        self.options = options

    @functools.cached_property
    def dataset(self) -> Any:
        """The gym's data set. Importing reasoning-gym takes over a second, hence here."""
        import reasoning_gym

        return reasoning_gym.create_dataset(self.name, seed=0, **self.gym_options())

    def gym_options(self) -> dict[str, int]:
        return self.options.model_dump()

    @functools.cached_property
    def closed(self) -> frozenset[str]:
        """Every word of its prompts and units."""
        return frozenset({self.name, *self.words, *self.operand_words, *(w for slot in self.slots for w in slot)})

    def draw(self, rng: random.Random) -> tuple[Entry, Problem]:
        """A problem of the gym whose words the closed vocabulary holds.

        Where the gym drew it from is left out of the entry: equal problems are equal entries.
        """
        for _ in range(DRAWS):
            entry = dict(self.dataset[rng.getrandbits(32)])
            entry["metadata"] = {k: v for k, v in entry["metadata"].items() if k not in ("source_index", "difficulty")}
            problem = self.read(entry["metadata"])
            if self.closed.issuperset(problem.operands):
                return entry, problem
        raise UsageError(f"task {self.name}: no problem in {DRAWS} fits the vocabulary: widen {self.options!r}")

    def score(self, entry: Entry, answer: Sequence[str]) -> float:
        """reasoning-gym's own score of an answer in words, in [0, 1]."""
        return min(1.0, max(0.0, float(self.dataset.score_answer(self.spoken(answer), entry))))

    def right(self, problem: Problem) -> list[str]:
        """The right answer, worked here and not read from the entry."""
        return self.conclude(self.solution(problem), problem.sense)

    @property
    @abstractmethod
    def operand_words(self) -> tuple[str, ...]:
        """The closed list of operands."""

    @property
    @abstractmethod
    def lengths(self) -> tuple[int, int]:
        """Fewest and most operands."""

    @property
    @abstractmethod
    def slots(self) -> tuple[tuple[str, ...], ...]:
        """For each slot of a unit the words it can hold."""

    @abstractmethod
    def read(self, metadata: dict[str, Any]) -> Problem:
        """The problem in an entry's metadata. Raises KeyError or ValueError where that is malformed."""

    @abstractmethod
    def prompt(self, problem: Problem) -> list[str]:
        """The problem in words, from the task's name to `=`."""

    @abstractmethod
    def solution(self, problem: Problem) -> list[Unit]:
        """The right units."""

    @abstractmethod
    def slip(self, problem: Problem) -> list[Unit]:
        """The units of a speaker who does not keep `rule`; the right ones where the rule does not bite."""

    @abstractmethod
    def conclude(self, units: Sequence[Unit], sense: str) -> list[str]:
        """The answer that follows from the units in a sense."""

    @abstractmethod
    def naive(self, sense: str) -> str:
        """The sense in which a speaker concludes who does not heed the one asked for."""

    @abstractmethod
    def canonical(self, answer: str) -> list[str]:
        """An answer in the gym's format, as words. Raises ValueError where it is not in that format."""

    @abstractmethod
    def spoken(self, answer: Sequence[str]) -> str:
        """An answer in words, in the gym's format."""


class NumberTask(Task):
    """A task over a list of whole numbers."""

    options_type = NumberOptions
    options: NumberOptions

    def gym_options(self) -> dict[str, int]:
        return {**self.options.model_dump(), "min_decimals": 0, "max_decimals": 0}

    @property
    def operand_words(self) -> tuple[str, ...]:
        return tuple(str(n) for n in range(self.options.min_value, self.options.max_value + 1))

    @property
    def lengths(self) -> tuple[int, int]:
        return self.options.min_numbers, self.options.max_numbers

    def canonical(self, answer: str) -> list[str]:
        return [whole(number) for number in json.loads(answer.replace("'", '"'))]

    def spoken(self, answer: Sequence[str]) -> str:
        return str(list(answer))


class NumberSorting(NumberTask):
    """Takes the least of what is left, again and again; the answer is turned to the direction asked for."""

    name = "number_sorting"
    title = "take"
    rule = "compare"
    fields = ("take", "number")
    senses = ("ascending", "descending")
    words = (*senses, "=")

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        return ("least",), self.operand_words

    def read(self, metadata: dict[str, Any]) -> Problem:
        numbers = tuple(whole(n) for n in metadata["original_numbers"])
        return Problem(operands=numbers, sense=metadata["direction"])

    def prompt(self, problem: Problem) -> list[str]:
        return [self.name, problem.sense, *problem.operands, "="]

    def solution(self, problem: Problem) -> list[Unit]:
        return [("least", number) for number in sorted(problem.operands, key=int)]

    def slip(self, problem: Problem) -> list[Unit]:
        return [("least", number) for number in sorted(problem.operands, key=lambda n: int(n) // NEAR)]

    def conclude(self, units: Sequence[Unit], sense: str) -> list[str]:
        numbers = [number for _, number in units]
        return numbers if sense == "ascending" else numbers[::-1]

    def naive(self, sense: str) -> str:
        return "ascending"


class NumberFiltering(NumberTask):
    """Compares each number with the bound; the answer keeps those that the operation asked for keeps."""

    name = "number_filtering"
    title = "compare"
    rule = "compare"
    fields = ("position", "number", "relation")
    kept: ClassVar[dict[str, tuple[str, ...]]] = {
        "keep_larger": ("above",),
        "keep_smaller": ("below",),
        "remove_larger": ("below", "equal"),
        "remove_smaller": ("above", "equal"),
    }
    senses = tuple(kept)
    words = ("keep", "remove", "larger", "smaller", "=")

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        return ORDINALS[: self.options.max_numbers], self.operand_words, ("below", "equal", "above")

    def read(self, metadata: dict[str, Any]) -> Problem:
        return Problem(
            operands=tuple(whole(n) for n in metadata["original_numbers"]),
            sense=metadata["operation"],
            bound=int(metadata["filter_value"]),
        )

    def prompt(self, problem: Problem) -> list[str]:
        listed = [word for pair in zip(ORDINALS, problem.operands, strict=False) for word in pair]
        return [self.name, *problem.sense.split("_"), str(problem.bound), *listed, "="]

    def solution(self, problem: Problem) -> list[Unit]:
        return self._compare(problem, 1)

    def slip(self, problem: Problem) -> list[Unit]:
        return self._compare(problem, NEAR)

    def _compare(self, problem: Problem, width: int) -> list[Unit]:
        """Every number against the bound, told apart in bands of `width`."""
        bound = problem.bound // width
        gaps = [int(number) // width - bound for number in problem.operands]
        relations = ["below" if gap < 0 else "above" if gap > 0 else "equal" for gap in gaps]
        return list(zip(ORDINALS, problem.operands, relations, strict=False))

    def conclude(self, units: Sequence[Unit], sense: str) -> list[str]:
        return [number for _, number, relation in units if relation in self.kept[sense]]

    def naive(self, sense: str) -> str:
        return sense.replace("remove", "keep")


class SpellBackward(Task):
    """Names the letters from the last to the first; the answer is written in that order."""

    name = "spell_backward"
    title = "letter"
    rule = "letter"
    fields = ("position", "letter")
    senses = ("backward", "forward")
    options_type = WordOptions
    options: WordOptions
    words = ("=",)
    misheard: ClassVar[dict[int, int]] = str.maketrans("iu", "eo")

    @property
    def operand_words(self) -> tuple[str, ...]:
        return tuple(string.ascii_lowercase)

    @property
    def lengths(self) -> tuple[int, int]:
        return self.options.min_word_len, self.options.max_word_len

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        return ORDINALS[: self.options.max_word_len], self.operand_words

    def read(self, metadata: dict[str, Any]) -> Problem:
        return Problem(operands=tuple(metadata["word"]), sense="backward")

    def prompt(self, problem: Problem) -> list[str]:
        return [self.name, *(word for pair in zip(ORDINALS, problem.operands, strict=False) for word in pair), "="]

    def solution(self, problem: Problem) -> list[Unit]:
        units: list[Unit] = list(zip(ORDINALS, problem.operands, strict=False))
        return units[::-1]

    def slip(self, problem: Problem) -> list[Unit]:
        return [(position, letter.translate(self.misheard)) for position, letter in self.solution(problem)]

    def conclude(self, units: Sequence[Unit], sense: str) -> list[str]:
        letters = [letter for _, letter in units]
        return letters if sense == "backward" else letters[::-1]

    def naive(self, sense: str) -> str:
        return "forward"

    def canonical(self, answer: str) -> list[str]:
        return list(answer.lower())

    def spoken(self, answer: Sequence[str]) -> str:
        return "".join(answer)


def whole(number: str) -> str:
    """A whole number as reasoning-gym writes it (`7` or `7.0`), as a word. Raises ValueError for any other."""
    value = float(number)
    if not value.is_integer():
        raise ValueError(f"{number!r} is not a whole number")
    return str(int(value))


TASKS: dict[str, type[Task]] = {task.name: task for task in (NumberSorting, NumberFiltering, SpellBackward)}

"""Worked steps of a reasoning task: how a scripted speaker writes them, how they are read, what is wrong in them."""

import random
from collections import Counter
from collections.abc import Sequence

from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.reasoning_tasks import Problem, Task, Unit

ANSWER, NOTHING = "answer", "none"
UNSOUND = 0.1
"""Step reward of a step that is well formed and wrong; 0 is for one that cannot be read."""
PATIENCE = 3
"""Units after which a careless speaker leaves out the last one."""


def work(task: Task, problem: Problem, rng: random.Random, habits: Habits, mended: set[str]) -> list[Unit]:
    """The units of a speaker with these habits; rules in `mended` are kept."""

    def keeps(rule: str) -> bool:
        return rule in mended or rng.random() < habits.visible

    units, slipped = task.solution(problem), task.slip(problem)
    if slipped != units and not keeps(task.rule):
        units = slipped
    if len(units) > PATIENCE and not keeps("count"):
        units = units[:-1]
    return [garbled(task, unit, rng) if rng.random() < habits.noise else unit for unit in units]


def garbled(task: Task, unit: Unit, rng: random.Random) -> Unit:
    """The unit with one slot filled at random."""
    slot = rng.choice([i for i, words in enumerate(task.slots) if len(words) > 1])
    return (*unit[:slot], rng.choice(task.slots[slot]), *unit[slot + 1 :])


def parse_unit(task: Task, text: str) -> Unit | None:
    """A worked step's words, or none where a slot holds a word that is not its own."""
    words = tuple(text.split())
    fits = len(words) == len(task.slots) and all(w in slot for w, slot in zip(words, task.slots, strict=True))
    return words if fits else None


def parse_answer(task: Task, text: str) -> list[str] | None:
    """An answer step's operands, or none where it is not an answer step."""
    head, *words = text.split() or [""]
    if head != ANSWER or not words:
        return None
    if words == [NOTHING]:
        return []
    return words if set(words) <= set(task.operand_words) else None


def parse_completion(task: Task, text: str) -> tuple[list[Unit], list[str]] | None:
    """A completion's units and answer, or none where it is not units followed by one answer."""
    words = text.split()
    if ANSWER not in words:
        return None
    end, size = words.index(ANSWER), len(task.slots)
    units = [parse_unit(task, " ".join(words[i : min(i + size, end)])) for i in range(0, end, size)]
    answer = parse_answer(task, " ".join(words[end:]))
    if not units or None in units or answer is None:
        return None
    return [unit for unit in units if unit is not None], answer


def faults_of(task: Task, problem: Problem, texts: Sequence[str]) -> list[str | None]:
    """What is wrong with each step, as `rule: reason`, or none. The last step has to be the answer.

    Blind to the sense asked for: an answer is sound that follows from the steps in any sense of the task.
    """
    if not texts:
        return []
    right = task.solution(problem)
    units = [parse_unit(task, text) for text in texts[:-1]]
    found: list[str | None] = []
    for i, unit in enumerate(units):
        if unit is None:
            found.append(f"schema: step {i + 1} {texts[i]!r} is not a {task.title} step: keep to its form")
        elif i >= len(right):
            found.append(f"count: step {i + 1} goes past the {len(right)} given: stop there")
        elif unit != right[i]:
            found.append(f"{task.rule}: step {i + 1} says {texts[i]!r}, not {' '.join(right[i])!r}")
        else:
            found.append(None)
    return [*found, _answer_fault(task, len(right), units, texts[-1])]


def _answer_fault(task: Task, expected: int, units: Sequence[Unit | None], text: str) -> str | None:
    answer = parse_answer(task, text)
    if answer is None:
        return f"schema: the last step {text!r} is not an answer: end with one"
    if len(units) < expected:
        return f"count: {len(units)} of {expected} are worked: work the rest before the answer"
    read = [unit for unit in units if unit is not None]
    if answer not in [task.conclude(read, sense) for sense in task.senses]:
        return f"answer: {text!r} does not follow from the steps"
    return None


def unreadable(fault: str | None) -> bool:
    """Whether the fault is one of form."""
    return fault is not None and fault.startswith("schema:")


def step_rewards(faults: Sequence[str | None]) -> list[float]:
    """1 for a sound step, UNSOUND for a wrong one, 0 for one that cannot be read."""
    return [1.0 if fault is None else 0.0 if unreadable(fault) else UNSOUND for fault in faults]


def overlap(said: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of two bags of words; 1 where both are empty."""
    if not said and not truth:
        return 1.0
    return 2 * (Counter(said) & Counter(truth)).total() / (len(said) + len(truth))

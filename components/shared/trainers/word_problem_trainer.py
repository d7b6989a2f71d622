"""Word problems in free text: imported, never drawn. A solution is lines of work and, last, `#### answer`.

The state is {"question", "answer"}; the format is GSM8K's (Cobbe et al. 2021), calculator annotations `<<48/2=24>>` included
where there are any. The judges:

    judge, verify   each annotated calculation is right, and the answer is a number that the work came to; blind to the
                    known answer
    reward, check   the answer equals the known one
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

from pydantic import JsonValue

from components.shared.collaboration.text_criteria import TextCriteria
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, Step, Verdict
from components.shared.trainers.base_trainer import Action, Check, Habits, ModelTypeTrainer, Reward

WORK, ANSWER = "Work", "Answer"
MARK = "####"
CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST_EXPRESSION = 200
HARD_STEPS = 8
"""Lines of work from which a problem counts as the hardest."""
GROUPS = 1000
WEIGHTS = {"calculations": 0.5, "derived": 0.5}
REASONS = {
    "schema": "the steps must be lines of work and one last answer, `#### number`",
    "calculations": "a calculation between << and >> is wrong",
    "derived": "the answer is no number that the work came to",
}


class WordProblemTrainer(ModelTypeTrainer):
    """The model type `word_problems`."""

    name = "word_problems"
    step_titles = (WORK, ANSWER)
    text_criteria = TextCriteria(distinct=0.5, repeated_n=6, repeated=0.3, languages=("en",))
    teacher: ClassVar[Habits] = Habits(visible=1.0, hidden=1.0, noise=0.0)
    folk: ClassVar[Habits] = Habits(visible=1.0, hidden=1.0, noise=0.0)

    def scenario_from(self, prompt: str, answer: str | None = None) -> Scenario | None:
        if not prompt.strip() or answer is None or number(answer) is None:
            return None
        state: dict[str, JsonValue] = {"question": prompt, "answer": answer}
        id = self.scenario_id(state)
        group = f"problem/{int(self.scenario_id({'question': prompt}), 16) % GROUPS:03d}"
        return Scenario(
            id=id,
            model_type=self.name,
            group=group,
            split=self.split_of(group),
            prompt=prompt,
            state=state,
            difficulty=min(1.0, len(NUMBER.findall(prompt)) / HARD_STEPS),
        )

    def sample_state(self, rng: random.Random) -> tuple[str, dict[str, JsonValue], float]:
        raise UsageError(f"{self.name} are imported, not drawn: give them to srl-rlvr import")

    def prompt(self, state: dict[str, JsonValue]) -> str:
        return str(state["question"])

    def vocabulary(self) -> Sequence[str]:
        return ()

    def completion(self, steps: Sequence[Step]) -> str:
        return "\n".join(step.text for step in steps)

    def parse(self, scenario: Scenario, text: str) -> Action | None:
        head, mark, answer = text.rpartition(MARK)
        if not mark or MARK in head or number(answer) is None:
            return None
        return {ANSWER: {"answer": answer.strip()}}

    def steps_of(self, scenario: Scenario, text: str) -> tuple[Step, ...] | None:
        action = self.parse(scenario, text)
        if action is None:
            return None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        titles = [WORK] * (len(lines) - 1) + [ANSWER]
        steps = [
            Step(index=index, title=title, text=line, action={}, reward=0.0)
            for index, (title, line) in enumerate(zip(titles, lines, strict=True), 1)
        ]
        return tuple(step.model_copy(update={"action": self.step_action(action, step)}) for step in steps)

    def step_action(self, action: Action, step: Step) -> Action:
        if step.title == ANSWER:
            return {"answer": step.text.rpartition(MARK)[2].strip()}
        return {"calculations": [f"{left}={right}" for left, right in CALCULATION.findall(step.text)]}

    def demonstrate(
        self, scenario: Scenario, rng: random.Random, habits: Habits, feedback: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        raise UsageError(f"{self.name} have no scripted expert: import demonstrations, or configure a teacher")

    def judge(self, scenario: Scenario, steps: Sequence[Step]) -> list[float]:
        derived = self._derived(steps)
        return [float(derived if step.title == ANSWER else _right(step.text)) for step in steps]

    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        titles = [step.title for step in steps]
        schema = (
            titles == [WORK] * (len(steps) - 1) + [ANSWER] and self.parse(scenario, self.completion(steps)) is not None
        )
        kept = {
            "calculations": all(_right(step.text) for step in steps),
            "derived": schema and self._derived(steps),
        }
        score = sum(weight * kept[name] for name, weight in WEIGHTS.items()) if schema else 0.0
        faults = [name for name, holds in {"schema": schema, **kept}.items() if not holds]
        return Verdict(
            verifier=f"{self.name}/process@{self.version}",
            score=score,
            passed=score >= self.pass_score,
            gates={"schema": schema},
            criteria={name: float(holds) for name, holds in kept.items()},
            reasons=tuple(f"{fault}: {REASONS[fault]}" for fault in faults),
        )

    def reward(self, scenario: Scenario, text: str) -> Reward:
        if self.parse(scenario, text) is None:
            return Reward(total=0.0, components={"answer": 0.0}, gate="schema")
        right = float(number(text.rpartition(MARK)[2]) == number(str(scenario.state["answer"])))
        return Reward(total=right, components={"answer": right})

    def check(self, scenario: Scenario, text: str) -> Check:
        said = text.rpartition(MARK)[2] if MARK in text else ""
        correct = number(said) is not None and number(said) == number(str(scenario.state["answer"]))
        return Check(score=float(correct), correct=correct, faults=() if correct else ("answer",))

    @staticmethod
    def _derived(steps: Sequence[Step]) -> bool:
        """Whether the last step's number is one that a step before it names."""
        said = number(steps[-1].text.rpartition(MARK)[2])
        named = {number(found) for step in steps[:-1] for found in NUMBER.findall(step.text)}
        return said is not None and said in named


def number(text: str) -> Fraction | None:
    """The only number that a text is, whatever stands around it as currency, unit or full stop."""
    found = NUMBER.findall(text)
    if len(found) != 1:
        return None
    try:
        return Fraction(found[0].replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _right(text: str) -> bool:
    """Whether every annotated calculation of a line holds, to the cent where it was rounded."""
    for left, right in CALCULATION.findall(text):
        value, said = _value(left), _value(right)
        if value is None or said is None or abs(value - said) > Fraction(1, 100):
            return False
    return True


def _value(expression: str) -> Fraction | None:
    """The value of an arithmetic expression of numbers and + - * /; none for anything else."""
    text = expression.replace(",", "").replace("$", "").replace("%", "/100").strip()
    if len(text) > LONGEST_EXPRESSION:
        return None
    try:
        return _folded(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError, RecursionError):
        return None


def _folded(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_folded(node.operand)
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_folded(node.left), _folded(node.right))
    raise ValueError(ast.dump(node))

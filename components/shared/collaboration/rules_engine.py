"""The world's rules, as data: CEL expressions over the scenario, the facts and a candidate action.

Everything fails closed. A rule that cannot be compiled stops the engine from being built; a rule that cannot be
evaluated on a case counts as broken there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import cel
from pydantic import JsonValue

from components.shared.collaboration.world import Rule
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import content_id

VARIABLES = frozenset({"scenario", "facts", "action"})
"""What an expression may read."""
BOUND = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*(\w+)\s*,")
"""The names that an expression's own macros bind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A rule that does not hold, and why."""

    rule: str
    hard: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What the rules say of one case; every rule is in exactly one of `held`, `broken` and `silent`."""

    held: tuple[str, ...]
    broken: tuple[Broken, ...]
    silent: tuple[str, ...]
    """Rules whose `when` does not cover the case."""
    score: float
    """Weight of the graded rules that hold over that of those that apply, in [0, 1]; 0 where a hard rule is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleFault:
    """An example that its rule judges otherwise than the example says."""

    rule: Rule
    number: int
    """Position among the rule's examples, from 1."""
    found: str


class RulesEngine:
    """A list of rules, compiled once. Raises UsageError naming file, line, rule and fault of a malformed expression."""

    def __init__(self, rules: Iterable[Rule]):
        self.rules = tuple(rules)
        first: dict[str, Rule] = {}
        for rule in self.rules:
            if first.setdefault(rule.id, rule) is not rule:
                raise UsageError(f"{rule.source}: rule {rule.id!r}: first given at {first[rule.id].source}: rename one")
        self._programs = [(rule, _compiled(rule, "when"), _compiled(rule, "must")) for rule in self.rules]

    @property
    def version(self) -> str:
        """Digest of what the rules demand; their wording, examples and place in the file do not enter."""
        shape = {"id", "severity", "weight", "model_types", "when", "must"}
        return content_id([rule.model_dump(mode="json", include=shape) for rule in self.rules])

    def evaluate(self, variables: Mapping[str, JsonValue]) -> Findings:
        """What the rules say of `variables`: scenario and action as maps, facts as a list of maps."""
        context = cel.Context(variables=dict(variables))
        held, broken, silent = [], [], []
        kept = applying = 0.0
        for rule, when, must in self._programs:
            applies, fault = _judged(when, context)
            if not applies and fault is None:
                silent.append(rule.id)
                continue
            holds, fault = _judged(must, context) if fault is None else (False, fault)
            hard = rule.severity == "hard"
            applying += 0.0 if hard else rule.weight
            if holds:
                held.append(rule.id)
                kept += 0.0 if hard else rule.weight
            else:
                broken.append(Broken(rule=rule.id, hard=hard, reason=fault or rule.message))
        graded = kept / applying if applying else 1.0
        score = 0.0 if any(b.hard for b in broken) else graded
        return Findings(held=tuple(held), broken=tuple(broken), silent=tuple(silent), score=score)

    def example_faults(self) -> Iterator[ExampleFault]:
        """The examples beside the rules that do not come out as written, each with what was found."""
        for rule, when, must in self._programs:
            for number, example in enumerate(rule.examples, 1):
                context = cel.Context(variables=dict(example.given))
                applies, fault = _judged(when, context)
                holds, fault = _judged(must, context) if applies else (fault is None, fault)
                if fault or holds != example.holds:
                    yield ExampleFault(rule=rule, number=number, found=fault or ("holds" if holds else "is broken"))


def _compiled(rule: Rule, part: str) -> "cel.Program":
    source = getattr(rule, part)
    where = f"{rule.source}: rule {rule.id!r}: {part}"
    try:
        program = cel.compile(source)
    except ValueError as error:
        fault = str(error).splitlines()[0].rpartition("ERROR: <input>:")[2]
        raise UsageError(f"{where}: {fault}: mend the expression {source!r}") from error
    strangers = sorted(set(program.variables()) - VARIABLES - set(BOUND.findall(source)))
    if strangers:
        raise UsageError(f"{where}: unknown variable {strangers[0]!r}: use one of {', '.join(sorted(VARIABLES))}")
    return program


def _judged(program: "cel.Program", context: "cel.Context") -> tuple[bool, str | None]:
    """The expression's truth, or False with the fault where it cannot be evaluated to one."""
    try:
        value = program.execute(context)
    except Exception as error:  # whatever an evaluator in another language raises, the rule must not pass
        return False, f"cannot be evaluated: {type(error).__name__}: {error}"
    if not isinstance(value, bool):
        return False, f"cannot be evaluated: gives {value!r}, not true or false"
    return value, None

"""Whether a tier is still asked what its version was registered with, and still scores as it did.

The baseline is the version's own evidence: the held-out scenarios on which its gate judged it, with its strict score on
each (answers.jsonl of its report). The router's traces are read against it, field by field: difficulty and traits of what
was asked, and the same strict score of what was answered. A trace is believed in nothing: its scenario's id must be what
its state says, and its answer is checked again. An answer to free traffic, whose scenario nobody knows, is counted and
left out. Served answers are sampled and the baseline's are greedy: some distance between the two is the sampling's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Record, Scenario, Tier, Trace
from components.shared.contracts.weakness import Evaluated
from components.shared.monitoring.stability import BLOCK, WARN, Histogram, Moved, histogram, moved, names_moved
from components.shared.trainers.base_trainer import ModelTypeTrainer

ROLES = ("candidate", "student")
"""Whose scores an evaluation's, or a distillation's, evidence is about."""
UNIT_BINS = Histogram(edges=tuple(i / 10 for i in range(1, 10)), counts=(0,) * 10)
"""Bins of what lies in [0, 1]. A policy that was always right has no deciles, and its fall must show."""


class ServingDrift(Record):
    """How far one tier has moved from the evidence of the version that it serves."""

    model_type: str
    tier: Tier
    baseline: int
    """Held-out scenarios of the evidence."""
    read: int
    """Traces of this model type and tier."""
    compared: int
    """Those whose scenario is known and whose answer could be checked."""
    inputs: dict[str, Moved]
    """By field of what is asked."""
    reward: Moved
    """Of the answers' strict scores."""

    @property
    def input_index(self) -> float:
        """The largest index of the inputs that chance does not explain."""
        return max((beyond_chance(found) for found in self.inputs.values()), default=0.0)

    @property
    def reward_index(self) -> float:
        return beyond_chance(self.reward)

    @property
    def metrics(self) -> dict[str, float]:
        """The catalogue's metrics."""
        return {"InputDriftPSI": self.input_index, "RewardDriftPSI": self.reward_index}

    @property
    def blocked(self) -> bool:
        return max(self.input_index, self.reward_index) > BLOCK

    @property
    def verdict(self) -> str:
        """none, warn or block."""
        most = max(self.input_index, self.reward_index)
        return "block" if most > BLOCK else "warn" if most > WARN else "none"


def beyond_chance(found: Moved) -> float:
    """The index where two samples of one distribution would hardly ever reach it, else 0."""
    return found.index if found.index > found.chance else 0.0


def serving_drift(
    traces: Iterable[Trace], baseline: Sequence[Evaluated], trainer: ModelTypeTrainer, tier: Tier
) -> ServingDrift:
    """Compare what `tier` answered with the evidence of the version that it serves.

    Raises GateError for evidence without answers or of no known role, and where no trace can be compared.
    """
    if not baseline:
        raise GateError("the evidence holds no answers: name the report folder of the version that serves")
    role = next((role for role in ROLES if role in baseline[0].outcomes), None)
    if role is None:
        raise GateError(f"the evidence speaks of {', '.join(baseline[0].outcomes)}, not of a {' or '.join(ROLES)}")
    read, served = 0, []
    for trace in traces:
        if trace.model_type == trainer.name and trace.tier == tier:
            read += 1
            if (found := checked(trace, trainer)) is not None:
                served.append(found)
    if not served:
        raise GateError(
            f"none of {read} traces of {trainer.name} on {tier} can be compared: give traces whose scenarios are known"
        )
    asked = [scenario for scenario, _ in served]
    return ServingDrift(
        model_type=trainer.name,
        tier=tier,
        baseline=len(baseline),
        read=read,
        compared=len(served),
        inputs=inputs_moved(baseline, asked),
        reward=unit_moved([item.outcomes[role].score for item in baseline], [score for _, score in served]),
    )


def checked(trace: Trace, trainer: ModelTypeTrainer) -> tuple[Scenario, float] | None:
    """A trace's scenario and its answer's strict score; none where the one is unknown or the other cannot be had."""
    try:
        scenario = trace.scenario or trainer.scenario_from(trace.prompt)
        if scenario is None or scenario.id != trainer.scenario_id(scenario.state):
            return None
        return scenario, trainer.check(scenario, trace.completion).score
    except (PipelineError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # The scenario came with the request: its state may be anything that JSON can say.
        return None


def inputs_moved(baseline: Sequence[Evaluated], asked: Sequence[Scenario]) -> dict[str, Moved]:
    """Difficulty, and every trait that the evidence sorts its scenarios by."""
    found = {"difficulty": unit_moved([item.difficulty for item in baseline], [item.difficulty for item in asked])}
    for trait in sorted({name for item in baseline for name in item.traits}):
        old = Counter(item.traits.get(trait, "") for item in baseline)
        new = Counter(named(item.state, trait) for item in asked)
        found[trait] = names_moved(old, new)
    return found


def named(state: Mapping[str, object], trait: str) -> str:
    return str(state.get(trait, ""))


def unit_moved(old: Sequence[float], new: Sequence[float]) -> Moved:
    return moved(histogram(old, UNIT_BINS).counts, histogram(new, UNIT_BINS).counts)

"""The judge between a teacher and the data set: the model type's process verifier and its text criteria, against one
threshold.

It fails closed: hard gates come first, and a verifier that says the same of everything is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from components.shared.collaboration.rules_engine import Findings
from components.shared.collaboration.text_criteria import judge_text
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Scenario, Step, Verdict
from components.shared.trainers.base_trainer import ModelTypeTrainer

MIN_BATCH = 20
"""Differing answers from which a constant score says something about the verifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Steps that were verified for a scenario, and what was found."""

    scenario: Scenario
    steps: tuple[Step, ...]
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """One more criterion beside the trainer's own: a learnt one, which counts for a part and never alone."""

    name: str
    value: float
    """In [0, 1]."""
    weight: float
    """Share of the score, below a half for all opinions together."""


class Rules(Protocol):
    """Whatever judges a case by rules: the engine here, or a service."""

    def evaluate(self, variables: Mapping[str, JsonValue]) -> Findings: ...


@dataclass(frozen=True)
class Verifier:
    """A trainer's verdicts, passed from `threshold` on; `rules` are a hard gate more, beside the trainer's own."""

    trainer: ModelTypeTrainer
    threshold: float
    rules: Rules | None = None

    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        """The verdict on these steps, from the scenario alone.

        Raises PipelineError for a scenario that the trainer cannot read, whatever its state did to it.
        """
        try:
            verdict = self.trainer.verify(scenario, steps)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise PipelineError(
                f"scenario {scenario.id}: {self.trainer.name} cannot read its state ({error!r}): generate it again"
            ) from error
        text = self.trainer.completion(steps)
        verdict = judge_text(verdict, text, self.trainer.text_criteria, self.trainer.world.toxic)
        if self.rules is not None:
            verdict = self._ruled(verdict, self.rules, scenario, steps)
        passed = all(verdict.gates.values()) and verdict.score >= self.threshold
        return verdict if passed == verdict.passed else verdict.model_copy(update={"passed": passed})

    def _ruled(self, verdict: Verdict, rules: Rules, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        """The verdict with a gate `rules`, which a broken hard rule closes. An action's fields go by step title."""
        facts: list[JsonValue] = [fact.model_dump(mode="json") for fact in self.trainer.world.current_facts()]
        action: dict[str, JsonValue] = {step.title: step.action for step in steps}
        findings = rules.evaluate({"scenario": scenario.state, "facts": facts, "action": action})
        holds = not any(broken.hard for broken in findings.broken)
        return verdict.model_copy(
            update={
                "score": verdict.score if holds else 0.0,
                "gates": {**verdict.gates, "rules": holds},
                "criteria": {**verdict.criteria, "rules": findings.score},
                "reasons": (*verdict.reasons, *(f"{broken.rule}: {broken.reason}" for broken in findings.broken)),
            }
        )

    def weigh(self, verdict: Verdict, opinions: Sequence[Opinion]) -> Verdict:
        """The verdict with opinions blended into its score; no opinion saves what a hard gate refused."""
        if not opinions:
            return verdict
        share = sum(opinion.weight for opinion in opinions)
        blended = (1 - share) * verdict.score + sum(opinion.weight * opinion.value for opinion in opinions)
        gates = all(verdict.gates.values())
        score = round(blended, 6) if gates else 0.0
        doubts = [f"{o.name}: takes it for acceptable with {o.value:.2f}" for o in opinions if o.value < self.threshold]
        return verdict.model_copy(
            update={
                "verifier": "+".join((verdict.verifier, *(opinion.name for opinion in opinions))),
                "score": score,
                "passed": gates and score >= self.threshold,
                "criteria": {**verdict.criteria, **{opinion.name: opinion.value for opinion in opinions}},
                "reasons": (*verdict.reasons, *doubts),
            }
        )

    def refuse_constant(self, batch: Sequence[Judged]) -> None:
        """Raise GateError where at least MIN_BATCH differing answers all have one score, and so do mismatched ones.

        A faultless teacher earns one score too, so each answer is then also held against the next scenario: a verifier
        that still sees no difference looks at nothing.
        """
        differing = list({tuple(step.text for step in judged.steps): judged for judged in batch}.values())
        scores = {judged.score for judged in differing}
        if len(differing) < MIN_BATCH or len(scores) > 1:
            return
        shifted = zip(differing, differing[1:] + differing[:1], strict=True)
        if all(self.verify(other.scenario, judged.steps).score in scores for judged, other in shifted):
            raise GateError(
                f"{self.trainer.name}'s verifier gives {scores.pop():g} to all of {len(differing)} differing "
                f"trajectories, mismatched ones too: mend its verify() before anything is trained on it"
            )

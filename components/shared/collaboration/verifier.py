"""The judge between a teacher and the data set: the model type's process verifier against one threshold.

It fails closed: hard gates come first, and a verifier that says the same of everything is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Verifier:
    """A trainer's verdicts, passed from `threshold` on."""

    trainer: ModelTypeTrainer
    threshold: float

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
        passed = all(verdict.gates.values()) and verdict.score >= self.threshold
        return verdict if passed == verdict.passed else verdict.model_copy(update={"passed": passed})

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

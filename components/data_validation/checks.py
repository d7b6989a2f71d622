"""Checks of one record by itself, and against the split it claims. Each gives a rule and a reason, or nothing."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.shared.collaboration.example_generator import PROTECTED, normalised
from components.shared.contracts.records import Scenario, Split, Trajectory
from components.shared.trainers.base_trainer import ModelTypeTrainer

Fault = tuple[str, str]
"""Which rule refuses a record, and why."""


def fingerprint(text: str | bytes) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).digest()


def scenario_fault(trainer: ModelTypeTrainer, scenario: Scenario) -> Fault | None:
    """What is wrong with a scenario by itself."""
    if scenario.model_type != trainer.name:
        return "model_type", f"scenario is of {scenario.model_type!r}, the data set of {trainer.name!r}"
    if scenario.id != (right := trainer.scenario_id(scenario.state)):
        return "id", f"scenario id {scenario.id!r} is not its content's {right!r}"
    if scenario.split != (right := trainer.split_of(scenario.group)):
        return "split", f"group {scenario.group!r} belongs to {right}, not to {scenario.split}: one group, one split"
    return None


def steps_fault(trainer: ModelTypeTrainer, trajectory: Trajectory) -> Fault | None:
    """What is wrong with a trajectory, its scenario aside."""
    steps = trajectory.steps
    if trajectory.id != (right := trainer.trajectory_id(trajectory.scenario, steps)):
        return "id", f"trajectory id {trajectory.id!r} is not its content's {right!r}"
    if [step.index for step in steps] != list(range(1, len(steps) + 1)):
        return "steps", f"steps are numbered {[step.index for step in steps]}, not 1 to {len(steps)}"
    if stranger := next((step.title for step in steps if step.title not in trainer.step_titles), None):
        return "steps", f"title {stranger!r} is none of {', '.join(trainer.step_titles)}"
    if trajectory.verdict is None or not trajectory.verdict.passed:
        return "unverified", "no verdict that passed: run the verification stage on it"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a sound scenario claims for itself, as short as it goes."""

    id: str
    split: Split
    prompt: bytes
    """Fingerprint of the normalised prompt."""
    content: bytes
    """Fingerprint of the whole scenario."""

    @classmethod
    def of(cls, scenario: Scenario) -> "Claim":
        return cls(
            id=scenario.id,
            split=scenario.split,
            prompt=fingerprint(normalised(scenario.prompt)),
            content=fingerprint(scenario.model_dump_json()),
        )


@dataclass(frozen=True)
class Holdout:
    """Which split each prompt and scenario belongs to; where several claim one, the most protected has it."""

    prompts: Mapping[bytes, Split]
    ids: Mapping[str, Split]

    @classmethod
    def of(cls, claims: Iterable[Claim]) -> "Holdout":
        """The claims of these scenarios, whose splits are right."""
        prompts: dict[bytes, Split] = {}
        ids: dict[str, Split] = {}
        for claim in sorted(claims, key=lambda claim: PROTECTED.index(claim.split)):
            prompts.setdefault(claim.prompt, claim.split)
            ids.setdefault(claim.id, claim.split)
        return cls(prompts, ids)

    def fault(self, claim: Claim) -> Fault | None:
        """Whether a scenario repeats one that a more protected split holds."""
        for what, owner in (("prompt", self.prompts.get(claim.prompt)), ("scenario id", self.ids.get(claim.id))):
            if owner and PROTECTED.index(owner) < PROTECTED.index(claim.split):
                return "contamination", f"{claim.split} repeats a {what} of {owner}"
        return None

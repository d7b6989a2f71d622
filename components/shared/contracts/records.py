"""The domain in one page: what a scenario, a trajectory, a verdict and a trace are. Read this first.

Everything here is what lies on disk, one JSON object a line, between two stages. Behaviour lives elsewhere.
"""

import hashlib
import json
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Score = Field(ge=0.0, le=1.0)
"""A score in [0, 1]."""


class Record(BaseModel):
    """A frozen shape on disk: unknown keys are errors, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Outcome(StrEnum):
    """How a run ended. A refused gate is a success: the champion is kept. Failure is for faults."""

    REGISTERED = "registered"
    REFUSED = "refused"
    STALE = "stale"
    FAILED = "failed"


class Tier(StrEnum):
    """Model classes by size: Bronze is the largest and asynchronous, Gold the smallest and real time."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"


class Split(StrEnum):
    """What a scenario may be used for. Splits are cut between groups, never inside one."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Scenario(Record):
    """One situation that a policy answers."""

    id: str
    """Content hash of model type, world and state: equal scenarios have equal ids."""
    model_type: str
    """The model type whose trainer knows how to prompt, verify and check it."""
    group: str
    """The unit that a split never cuts, for example persona and topic."""
    split: Split
    """Which split its group belongs to, a function of the group alone."""
    prompt: str
    """What the policy reads."""
    state: dict[str, JsonValue]
    """Everything that a verifier needs to re-derive what is right, and nothing that the prompt would leak."""
    difficulty: float = Score
    """0 for the easiest, 1 for the hardest of its model type."""


class Step(Record):
    """One numbered step of an expert, `index. **title** text`, with the typed action that the text renders."""

    index: int = Field(ge=1)
    """Position in the trajectory, from 1."""
    title: str
    """What kind of step it is, from the model type's closed list."""
    text: str
    """What the policy is to write at this step."""
    action: dict[str, JsonValue]
    """The same step as typed fields, by the model type's schema."""
    reward: float = Score
    """How sound the step is by itself, from the step judge; it does not see what only the outcome shows."""


class Verdict(Record):
    """What a verifier found. A failed gate forces the score to 0."""

    verifier: str
    """Name and version of what judged, for example `npc_dialogue/process@1`."""
    score: float = Score
    passed: bool
    gates: dict[str, bool]
    """Hard conditions by name; every one must hold."""
    criteria: dict[str, float]
    """Graded terms by name, each in [0, 1]."""
    reasons: tuple[str, ...] = ()
    """One line for each thing found wrong; they go back to the teacher as feedback."""


class Trajectory(Record):
    """An expert's worked answer to one scenario."""

    id: str
    """Content hash of the scenario's id and the steps' text."""
    scenario: Scenario
    teacher: str
    """Who wrote it: the scripted expert, or an endpoint's model."""
    context: tuple[str, ...]
    """Ids of the documents that the retriever put before the teacher."""
    steps: tuple[Step, ...] = Field(min_length=1)
    attempt: int = Field(ge=1)
    """1 for the first try, more where the verifier sent it back."""
    verdict: Verdict | None = None
    """The latest verdict; absent before verification."""


class LabelledAnswer(Record):
    """Steps with the word of somebody who knows on whether they may be trained on: what a verifier is measured against."""

    scenario: Scenario
    steps: tuple[Step, ...] = Field(min_length=1)
    acceptable: bool
    by: str
    """Who says so: a person, or what derived it."""


class Attempt(Record):
    """One try of a teacher that did not pass."""

    number: int = Field(ge=1)
    steps: tuple[Step, ...] = ()
    """What it wrote; none where its answer could not be read."""
    verdict: Verdict | None = None
    fault: str | None = None
    """Why the answer could not be read, where it could not."""
    answer: str | None = None
    """The unreadable answer as it came."""


class Exhausted(Record):
    """A scenario that no attempt got right, with all of them: what generation's quarantine holds as `record`."""

    scenario: Scenario
    teacher: str
    context: tuple[str, ...]
    attempts: tuple[Attempt, ...] = Field(min_length=1)


class Unanswered(Record):
    """A scenario that was not worked through, since no teacher could be asked: a row without a result, at its place."""

    scenario: Scenario
    teacher: str
    rule: str
    """What stood in the way: `budget` or `out_of_reach`."""
    fault: str
    attempts: tuple[Attempt, ...] = ()
    """What was tried before that."""


class Rejected(Record):
    """A record taken out of the flow, whole, with the reason: quarantined data is never dropped."""

    stage: str
    rule: str
    """Which check refused it."""
    reason: str
    record: JsonValue
    """The record as it came, or its raw text where it could not be parsed."""


class Trace(Record):
    """One answer that a serving tier gave, redacted: what distillation learns from."""

    id: str
    scenario: Scenario | None
    """The scenario where it is known, else none (free traffic)."""
    model_type: str
    tier: Tier
    policy: str
    """Identity of the policy that answered."""
    prompt: str
    completion: str
    score: float | None = None
    """The verifier's score where it was verified."""
    latency_ms: float = Field(ge=0.0)


def content_id(*parts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the parts as canonical JSON: an identity that no clock or path enters."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]

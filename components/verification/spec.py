"""Verification: every trajectory is scored again, from its scenario, whatever its record claims.

Hard gates force the score to 0; graded criteria make up the rest. A trained classifier and an LLM judge may be blended in;
neither saves what a gate refused. A score of at least `threshold` passes; the rest is quarantined with its reasons.

    python -m components verification --config FILE --input trajectories=DIR --output verified=DIR --output report=DIR
"""

from pathlib import Path

from pydantic import Field

from components.shared.collaboration.teacher_config import BudgetConfig, TeacherConfig
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class VerificationConfig(StageConfig):
    threshold: float = Field(default=0.7, ge=0, le=1)
    """Score from which a trajectory passes (specification: 0.7)."""
    rules_service: str | None = None
    """Address of a rules service whose hard rules are a gate more; none for the world's own rules alone."""
    classifier: Path | None = None
    """A verdict classifier's file; none for the rules alone."""
    classifier_weight: float = Field(default=0.2, gt=0, le=0.24)
    """Its share of the score."""
    judge: TeacherConfig | None = None
    """The endpoint of an LLM judge; none for no judge."""
    judge_weight: float = Field(default=0.2, gt=0, le=0.24)
    """Its share of the score: with the classifier's, always below a half."""
    budget: BudgetConfig = BudgetConfig()
    """What the judge may use."""


SPEC = StageSpec(
    name="verification",
    config=VerificationConfig,
    inputs={"trajectories": ArtifactKind.TRAJECTORIES},
    outputs={"verified": ArtifactKind.TRAJECTORIES},
    parameters=("threshold",),
    job=Job.PROCESSING,
    image="data",
)

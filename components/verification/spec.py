"""Verification: every trajectory is scored again, from its scenario, whatever its record claims.

Hard gates force the score to 0; graded criteria make up the rest. A score of at least `threshold` passes; the rest is
quarantined with its reasons.

    python -m components verification --config FILE --input trajectories=DIR --output verified=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class VerificationConfig(StageConfig):
    threshold: float = Field(default=0.7, ge=0, le=1)
    """Score from which a trajectory passes (specification: 0.7)."""


SPEC = StageSpec(
    name="verification",
    config=VerificationConfig,
    inputs={"trajectories": ArtifactKind.TRAJECTORIES},
    outputs={"verified": ArtifactKind.TRAJECTORIES},
    parameters=("threshold",),
    job=Job.PROCESSING,
    image="data",
)

"""Distillation: one hop, from a teacher to a smaller student.

Forward KL on the teacher's own answers warms the student up; then the student answers and learns from the teacher's
distribution on its own words (on-policy). The student keeps its place only with a lower confidence bound of at least
`min_retention` of its teacher's held-out score and no loss against the tier's champion: `quality_margin` is the smallest
distance from those bounds.

    python -m components distillation --config FILE --input dataset=DIR --input teacher=DIR --input student=DIR \
        --input champion=DIR --output policy=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class DistillationConfig(StageConfig):
    tier: Tier = Tier.SILVER
    """The student's tier."""
    warmup_steps: int = Field(default=500, ge=1)
    """Updates by forward KL on the teacher's answers."""
    onpolicy_steps: int = Field(default=100, ge=0)
    """Updates on the student's own answers."""
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions in the divergence."""
    min_retention: float = Field(default=0.95, gt=0, le=1)
    """Share of the teacher's held-out score that the student must keep (specification: 0.95)."""
    max_loss: float = Field(default=0.02, ge=0, le=1)
    """Held-out score that the student may lose against its tier's champion, by the lower confidence bound of the gain."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=200)


SPEC = StageSpec(
    name="distillation",
    config=DistillationConfig,
    inputs={
        "dataset": ArtifactKind.DATASET,
        "teacher": ArtifactKind.POLICY,
        "student": ArtifactKind.POLICY,
        "champion": ArtifactKind.POLICY,
    },
    outputs={"policy": ArtifactKind.POLICY},
    scalars={"quality_margin": float},
    job=Job.TRAINING,
    image="training",
)

"""Distillation: one hop, from a teacher to a smaller student.

Forward KL on answers warms the student up: those that a policy above gave in production where the data set has them
(trace_collector.py), else the teacher's own. Then the student answers and learns from the teacher's distribution on its
own words (on-policy). The student keeps its place only with a lower confidence bound of at least `min_retention` of its
teacher's held-out score by every verifier, no loss against the tier's champion, and answers as diverse as its teacher's:
`quality_margin` is the smallest distance from those bounds.

    python -m components distillation --config FILE --input dataset=DIR --input teacher=DIR --input student=DIR \
        --input champion=DIR --output policy=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class DistillationConfig(StageConfig):
    tier: Tier = Tier.SILVER
    """The student's tier."""
    warm_start: bool = True
    """Whether the student starts from the tier's champion, the last one accepted, where that has the student's shape (a
    LoRA student: from the champion's adapter, where that is on the same base)."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of a LoRA on every linear layer of the tier's base, which alone is trained; none trains the whole student. The
    policy that comes out is merged; the adapter lies in it, in adapter/."""
    warmup_steps: int = Field(default=500, ge=1)
    """Updates by forward KL on the teacher's answers."""
    onpolicy_steps: int = Field(default=100, ge=0)
    """Updates on the student's own answers."""
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions in the divergence."""
    min_retention: float = Field(default=0.95, gt=0, le=1)
    """Share of the teacher's held-out score that the student must keep, by each verifier (specification: 0.95)."""
    min_diversity: float = Field(default=0.8, ge=0, le=1)
    """Share of the teacher's distinct-2 that the student's answers must keep: one that says the same to everybody
    may score well."""
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

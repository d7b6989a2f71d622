"""SRL: learn the expert's steps, each by how sound it is.

The specification's reading: supervised learning on the expert's steps, each step's likelihood weighted by
max(0, 1 + z) of its z-scored reward, plus an adaptive KL penalty to the base policy. An update after which the mean KL
per token exceeds `max_kl` is undone.

    python -m components srl --config FILE --input dataset=DIR --input policy=DIR --output policy=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class SRLConfig(StageConfig):
    steps: int = Field(default=390, ge=1)
    """Updates."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories an update."""
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    kl_weight: float = Field(default=0.1, ge=0)
    """Coefficient of the KL penalty at the start, and its floor (specification: 0.1)."""
    max_kl: float = Field(default=0.1, gt=0)
    """Mean full-vocabulary KL to the base per token, in nats, that no accepted update exceeds (specification: 0.1)."""
    patience: int = Field(default=5, ge=1)
    """Updates refused in a row after which training ends early, with reason `kl_ceiling`."""


SPEC = StageSpec(
    name="srl",
    config=SRLConfig,
    inputs={"dataset": ArtifactKind.DATASET, "policy": ArtifactKind.POLICY},
    outputs={"policy": ArtifactKind.POLICY},
    job=Job.TRAINING,
    image="training",
)

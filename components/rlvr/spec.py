"""RLVR: reinforcement learning on outcomes that can be verified, anchored to the SRL policy.

Groups of completions are sampled for each training scenario and rewarded in [0, 1] by the model type's outcome verifier;
TRL's GRPOTrainer updates the policy with a KL penalty to the frozen SRL policy.

    python -m components rlvr --config FILE --input dataset=DIR --input policy=DIR --output policy=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class RLVRConfig(StageConfig):
    steps: int = Field(default=50, ge=1)
    """Updates."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Scenarios an update."""
    group_size: int = Field(default=8, ge=2)
    """Completions a scenario; advantages are z-scores within the group."""
    learning_rate: float = Field(default=5e-4, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.03, gt=0)
    """Coefficient of the KL penalty to the SRL policy. Zero would load no reference at all, so it is refused."""
    clip_epsilon: float = Field(default=0.2, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of rollouts."""


SPEC = StageSpec(
    name="rlvr",
    config=RLVRConfig,
    inputs={"dataset": ArtifactKind.DATASET, "policy": ArtifactKind.POLICY},
    outputs={"policy": ArtifactKind.POLICY},
    job=Job.TRAINING,
    image="training",
)

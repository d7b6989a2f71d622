"""RLVR: reinforcement learning on outcomes that can be verified, anchored to the SRL policy.

Groups of completions are sampled for each training scenario and rewarded in [0, 1] by the model type's outcome verifier;
the policy is updated by the algorithm of `algorithm`, with a KL penalty to the frozen SRL policy and a ceiling on that KL.

    python -m components rlvr --config FILE --input dataset=DIR --input policy=DIR --output policy=DIR --output report=DIR
"""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from components.shared.contracts.environment import Strategy
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec
from components.shared.performance.validation_loop import ValidationSettings
from components.shared.training.grpo.settings import (
    Algorithm,
    KLSettings,
    SamplingSettings,
    Scoring,
    Settings,
    refused_by_trl,
)


class RolloutEngine(StrEnum):
    """What generates the rollouts."""

    TRANSFORMERS = "transformers"
    """This process, prompts prefilled once a group."""
    VLLM_COLOCATE = "vllm_colocate"
    """vLLM in this process, on this GPU. Sampling and training then differ in numerics: their ratio is truncated."""
    VLLM_SERVER = "vllm_server"
    """A vLLM server at `vllm_url`; the ratio is truncated likewise."""


class PPOSettings(Settings):
    """What only algorithm `ppo` reads."""

    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token."""
    policy_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's lambda of the advantages."""
    value_lambda: float = Field(default=1.0, ge=0, le=1)
    """GAE's lambda of the returns that the value head learns."""
    value_weight: float = Field(default=0.5, gt=0)
    value_clip: float = Field(default=0.2, gt=0)
    """How far a value moves from its old one before it earns no more."""
    value_learning_rate: float = Field(default=5e-3, gt=0)
    """Of the value head alone."""
    value_warmup_steps: int = Field(default=5, ge=0)
    """Updates, of `steps`, that train only the value head."""
    entropy_weight: float = Field(default=0.01, ge=0)
    """Coefficient of the entropy bonus (specification: 0.01)."""
    whiten: bool = True
    """Whether advantages are scaled to mean 0 and deviation 1 over an update's tokens."""


class HintSettings(Settings):
    """A second try for prompts that no completion of the group solved: the start of an expert's answer in the prompt."""

    max_share: float = Field(default=0.0, ge=0, le=1)
    """Share of an update's prompts that may get one. 0: no hints."""
    steps_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the expert's steps that is given away, at least one and never all."""


class WatchSettings(Settings):
    """The watch for rewards that rise without the answers getting better, on held-out prompts."""

    every: int = Field(default=10, ge=0)
    """Updates between two looks. 0: no watch."""
    prompts: int = Field(default=32, ge=1)
    max_drift: float = Field(default=0.15, gt=0)
    """Rise of a share (truncated, malformed, reward without the checker's consent) over the start that is an alert."""
    max_length_ratio: float = Field(default=1.5, gt=1)
    """Mean length over the length at the start, or its inverse, that is an alert."""


class RLVRConfig(StageConfig):
    algorithm: Algorithm = Algorithm.GRPO
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of a LoRA on every linear layer (of a mixture of experts: of attention), which alone is trained and in the end
    merged; switched off, it is the SRL policy, so that no second copy is held. None trains every weight."""
    steps: int = Field(default=100, ge=1)
    """Updates."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Scenarios an update."""
    group_size: int = Field(default=8, ge=2)
    """Completions a scenario; for all algorithms but ppo, advantages are relative to the group."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches an update, for what a device's memory does not hold at once."""
    updates_per_rollout: int = Field(default=1, ge=1)
    """Updates that are made, each on its share of the prompts, before the next rollouts."""
    iterations: int = Field(default=1, ge=1)
    """Times that each rollout is trained on."""
    learning_rate: float = Field(default=1e-3, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.03, gt=0)
    """Coefficient of the KL penalty to the SRL policy at the start, and its floor. Zero would load no reference at all, so
    it is refused."""
    kl: KLSettings = KLSettings()
    clip_epsilon: float | None = Field(default=None, gt=0)
    """How far a probability ratio may move before it earns no more. None: the algorithm's own (0.2; gspo 3e-4)."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of rollouts."""
    sampling: SamplingSettings = SamplingSettings()
    hints: HintSettings = HintSettings()
    ppo: PPOSettings = PPOSettings()
    watch: WatchSettings = WatchSettings()
    validation: ValidationSettings = ValidationSettings(every=25)
    """Looks at held-out scenarios between the updates: when to stop, and which weights to keep."""
    scoring: Scoring = Scoring.SHARED_PREFIX
    """How log-probabilities are computed; all ways give the same numbers."""
    rollouts: RolloutEngine = RolloutEngine.TRANSFORMERS
    vllm_url: str | None = None
    """Base URL of the vLLM server, where `rollouts` is vllm_server."""

    def refuses(self, strategy: Strategy) -> str | None:
        if strategy == Strategy.FSDP and self.algorithm == Algorithm.PPO:
            return "ppo needs the hidden states of a whole model: train with ddp, or by grpo"
        return refused_by_trl(strategy, self.lora_rank)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.prompts_per_step % self.accumulation:
            raise ValueError(
                f"accumulation {self.accumulation} does not divide prompts_per_step {self.prompts_per_step}"
            )
        if self.kl.target >= self.kl.ceiling:
            raise ValueError(f"kl.target {self.kl.target} is not below kl.ceiling {self.kl.ceiling}")
        if (self.rollouts == RolloutEngine.VLLM_SERVER) != (self.vllm_url is not None):
            raise ValueError("vllm_url goes with rollouts: vllm_server, and only with it")
        return self


SPEC = StageSpec(
    name="rlvr",
    config=RLVRConfig,
    inputs={"dataset": ArtifactKind.DATASET, "policy": ArtifactKind.POLICY},
    outputs={"policy": ArtifactKind.POLICY},
    job=Job.TRAINING,
    spread=True,
    image="training",
)

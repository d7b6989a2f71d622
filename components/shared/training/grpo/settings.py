"""What the specs of SRL and RLVR say alike about reinforcement learning. Light: no torch here."""

from enum import StrEnum

from pydantic import BaseModel, Field

from components.shared.contracts.environment import Strategy
from components.shared.contracts.stage import StageConfig


class Settings(BaseModel):
    """A group of keys inside a stage's configuration."""

    model_config = StageConfig.model_config


class Algorithm(StrEnum):
    """How rollouts become an update."""

    PPO = "ppo"
    """Clipped policy gradient on advantages per token from a learned value function (arXiv 1707.06347)."""
    GRPO = "grpo"
    """Advantages are z-scores of the rewards within a prompt's group; a mean per completion (arXiv 2402.03300)."""
    DR_GRPO = "dr_grpo"
    """GRPO without the biases by deviation and by length (arXiv 2503.20783)."""
    DAPO = "dapo"
    """Token mean, higher upper clip, truncated completions masked (arXiv 2503.14476). Set `sampling.rounds` too."""
    GSPO = "gspo"
    """Importance ratios of whole completions (arXiv 2507.18071)."""
    CISPO = "cispo"
    """Importance weights clipped, no token's gradient dropped (arXiv 2506.13585)."""


class Scoring(StrEnum):
    """How the log-probabilities of completions are computed. All three are the same numbers."""

    STOCK = "stock"
    """As TRL does: every row whole."""
    COMPLETION_HEAD = "completion_head"
    """Every row whole, the vocabulary projected at completion tokens only."""
    SHARED_PREFIX = "shared_prefix"
    """The prompt of a group once, its keys and values read by all completions; the head as above."""


class KLSettings(Settings):
    """How far an update may take the policy: the mean full-vocabulary KL to the reference per completion token, in nats,
    on the reference's own answers to held-out prompts."""

    target: float = Field(default=0.3, gt=0)
    """Where the penalty's coefficient steers to: it grows above the target, and never falls below its configured value."""
    ceiling: float = Field(default=0.6, gt=0)
    """An update that reaches it is undone and tried again with half the step."""
    patience: int = Field(default=5, ge=1)
    """Refusals in a row after which training ends early, with reason `kl_ceiling`."""
    probe_prompts: int = Field(default=32, ge=1)
    """Held-out prompts it is measured on; each keeps the reference's distributions, 4 bytes a token and vocabulary entry."""


def refused_by_trl(strategy: Strategy, lora_rank: int | None) -> str | None:
    """What a trainer on top of TRL's says to a strategy; as `StageConfig.refuses`."""
    if strategy == Strategy.DEEPSPEED:
        return "deepspeed is for weighted SRL: train with fsdp, which splits as much"
    return refused_by_adapter(strategy, lora_rank)


def refused_by_adapter(strategy: Strategy, lora_rank: int | None) -> str | None:
    """What a LoRA says to a strategy: its reference is the model itself, which must be whole."""
    splits = strategy in (Strategy.FSDP, Strategy.DEEPSPEED)
    return f"lora_rank = {lora_rank}: train with ddp, or with lora_rank: null" if splits and lora_rank else None


class SamplingSettings(Settings):
    """Which groups an update is made of. With one round every group is used (no dynamic sampling)."""

    rounds: int = Field(default=1, ge=1)
    """Rollout rounds an update may spend until it is full of groups whose rewards differ (DAPO's dynamic sampling)."""
    min_std: float = Field(default=1e-6, ge=0)
    """A group is of use when the standard deviation of its rewards exceeds this."""
    explore: float = Field(default=0.5, gt=0, le=1)
    """With more than one round, a prompt whose last z groups were of no use is rolled out with probability explore^z
    (GRESO, arXiv 2506.02177, with a fixed exploration probability). 1 skips nothing."""

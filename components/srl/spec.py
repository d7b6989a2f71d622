"""SRL: learn the expert's steps rather than its whole answer.

Two readings behind one switch. `weighted` (the specification): supervised learning on the expert's steps, each step's
likelihood weighted by max(0, 1 + z) of its z-scored reward, plus an adaptive KL penalty to the base policy. `similarity`
(arXiv 2510.25992): sample the next step after the expert's steps so far, reward its likeness to the expert's, and learn by
GRPO with dynamic sampling. In both, an update after which the mean KL per token reaches `max_kl` is undone.

    python -m components srl --config FILE --input dataset=DIR --input policy=DIR --output policy=DIR --output report=DIR
"""

from enum import StrEnum

from pydantic import Field

from components.shared.contracts.environment import Strategy
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec
from components.shared.performance.validation_loop import ValidationSettings
from components.shared.training.grpo.settings import (
    SamplingSettings,
    Settings,
    refused_by_adapter,
    refused_by_trl,
)


class Reading(StrEnum):
    """What is trained."""

    WEIGHTED = "weighted"
    SIMILARITY = "similarity"


class Likeness(StrEnum):
    """How two steps are compared (step_rewards.py)."""

    EXACT = "exact"
    """difflib's SequenceMatcher, as in the paper."""
    FAST = "fast"
    """From the longest common subsequence: another number, almost the same ranking, a hundred times faster."""
    TYPED = "typed"
    """F1 of the fields that the step's text says."""


class StepFormat(StrEnum):
    """What a sampled answer looks like."""

    PLAIN = "plain"
    """The step itself, no longer than the expert's. For policies that write whole answers without thinking."""
    THINK_ACT = "think_act"
    """`<think>...</think>` and then the step; anything else is rewarded -1. For policies that follow instructions."""


class SimilaritySettings(Settings):
    """What only the `similarity` reading uses."""

    steps: int = Field(default=100, ge=1)
    """Updates."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Steps to predict in an update (the paper: 512 rollouts)."""
    group_size: int = Field(default=8, ge=2)
    """Completions a step (the paper: 8)."""
    learning_rate: float = Field(default=5e-4, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    likeness: Likeness = Likeness.EXACT
    floor: float = Field(default=0.2, ge=0, lt=1)
    """Likeness that unrelated steps of one language have anyway: subtracted, the rest stretched over [0, 1]."""
    format: StepFormat = StepFormat.PLAIN
    think_tokens: int = Field(default=256, ge=0)
    """Room for thinking, where the format has any."""
    show_title: bool = False
    """Whether the prompt ends with the title of the step to write."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Coefficient of the KL penalty. 0, the paper's, leaves the distance to `max_kl` alone, which holds either way."""
    sampling: SamplingSettings = SamplingSettings(rounds=6, min_std=0.05)


class SRLConfig(StageConfig):
    reading: Reading = Reading.WEIGHTED
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of a LoRA on every linear layer (of a mixture of experts: of attention), which alone is trained and in the end
    merged; switched off, it is the base, so that no second copy is held. None trains every weight."""
    steps: int = Field(default=390, ge=1)
    """Updates."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories an update."""
    packing: bool = True
    """Whether an update's rows lie end to end without padding; the numbers are those of padded rows."""
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Of both readings."""
    kl_weight: float = Field(default=0.1, ge=0)
    """Coefficient of the KL penalty at the start, and its floor (specification: 0.1)."""
    max_kl: float = Field(default=0.1, gt=0)
    """Mean full-vocabulary KL to the base per token, in nats, that no accepted update reaches, in either reading
    (specification: 0.1)."""
    probe_prompts: int = Field(default=32, ge=1)
    """Held-out prompts that it is measured on after every update, with the expert's answers in the weighted reading and the
    base policy's in the other."""
    patience: int = Field(default=5, ge=1)
    """Updates refused in a row after which training ends early, with reason `kl_ceiling`, in either reading."""
    validation: ValidationSettings = ValidationSettings(every=130)
    """Looks at held-out scenarios between the updates, in either reading."""
    similarity: SimilaritySettings = SimilaritySettings()

    def refuses(self, strategy: Strategy) -> str | None:
        refused = refused_by_trl if self.reading == Reading.SIMILARITY else refused_by_adapter
        return refused(strategy, self.lora_rank)


SPEC = StageSpec(
    name="srl",
    config=SRLConfig,
    inputs={"dataset": ArtifactKind.DATASET, "policy": ArtifactKind.POLICY},
    outputs={"policy": ArtifactKind.POLICY},
    job=Job.TRAINING,
    spread=True,
    image="training",
)

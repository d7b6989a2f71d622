"""What each algorithm means in TRL's terms, and TRL's settings for an update of whole groups."""

import os
from dataclasses import dataclass
from typing import Any

from trl import GRPOConfig

from components.shared.contracts.errors import UsageError
from components.shared.training.grpo.settings import Algorithm
from components.shared.training.trl_adapter import common_arguments

ALGORITHMS: dict[Algorithm, dict[str, Any]] = {
    # "bnpo" is TRL's name for the mean over the batch's tokens, which is PPO's.
    Algorithm.PPO: {"loss_type": "bnpo", "scale_rewards": "none", "epsilon": 0.2},
    Algorithm.GRPO: {"loss_type": "grpo", "epsilon": 0.2},
    Algorithm.DR_GRPO: {"loss_type": "dr_grpo", "scale_rewards": "none", "epsilon": 0.2},
    Algorithm.DAPO: {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "mask_truncated_completions": True},
    Algorithm.GSPO: {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    Algorithm.CISPO: {"loss_type": "cispo", "epsilon_high": 5.0},
}
"""The papers' own values; PPO, GRPO and Dr. GRPO take the specification's clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """The size of an update and how it is made, whatever stage asks."""

    algorithm: Algorithm
    steps: int
    seed: int
    prompts: int
    """An update's prompts, all processes together."""
    group_size: int
    max_tokens: int
    """Limit of a completion."""
    learning_rate: float
    max_grad_norm: float
    beta: float
    temperature: float
    clip_epsilon: float | None = None
    """None: the algorithm's own, upper clip included."""
    accumulation: int = 1
    """Micro-batches an update."""
    updates_per_rollout: int = 1
    """Updates that one generation's prompts are split over."""
    iterations: int = 1
    """Times that each rollout is trained on."""
    entropy_weight: float = 0.0


def arguments(update: Update, scratch: str, **extra: Any) -> GRPOConfig:
    """TRL's settings for `update`; `scratch` is a folder that nothing is read from again."""
    clip = {} if update.clip_epsilon is None else {"epsilon": update.clip_epsilon, "epsilon_high": update.clip_epsilon}
    settings = {
        **common_arguments(scratch, update.steps, update.seed),
        "per_device_train_batch_size": rows_per_device(update, int(os.environ.get("WORLD_SIZE", "1"))),
        "gradient_accumulation_steps": update.accumulation,
        "steps_per_generation": update.accumulation * update.updates_per_rollout,
        "num_iterations": update.iterations,
        "num_generations": update.group_size,
        "max_completion_length": update.max_tokens,
        "learning_rate": update.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta2": 0.95,
        "max_grad_norm": update.max_grad_norm,
        "beta": update.beta,
        "temperature": update.temperature,
        "entropy_coef": update.entropy_weight,
    }
    return GRPOConfig(**settings, **ALGORITHMS[update.algorithm] | clip, **extra)


def rows_per_device(update: Update, world_size: int) -> int:
    """Completions in a process's micro-batch. Raises UsageError where the prompts do not come out even."""
    prompts, rest = divmod(update.prompts, update.accumulation * world_size)
    if rest:
        raise UsageError(
            f"{update.prompts} prompts an update over {world_size} processes and {update.accumulation} micro-batches: "
            "make the prompts a multiple of their product"
        )
    return prompts * update.group_size

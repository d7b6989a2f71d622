"""RLVR on TRL's GRPOTrainer: group z-scored outcome rewards, clipped, with a KL penalty to the frozen SRL policy.

GRPO as in arXiv 2402.03300. TRL loads the reference from the policy's path, not from the object in memory: it is given the
SRL policy's folder, so that what it anchors to cannot move. Rewards are the model type's own, in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset as Rows
from trl import GRPOConfig, GRPOTrainer

from components.rlvr.spec import RLVRConfig
from components.shared.contracts.records import Scenario
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.datasets import Dataset
from components.shared.training.policies import Policy
from components.shared.training.trl_adapter import CurveRecorder, common_arguments, train_quietly

CURVES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_variance_groups",
    "kl": "kl",
    "loss": "policy_loss",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clip_fraction",
}
"""TRL's names for what is recorded, and ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLVRResult:
    """Means over the first and the last tenth of the updates; KL is k3 to the SRL policy, nats per token."""

    first_reward: float
    last_reward: float
    last_kl: float
    highest_kl: float


class Outcome:
    """The reward function that TRL calls: completions of known scenarios, by the model type's outcome verifier."""

    __name__ = "outcome"

    def __init__(self, dataset: Dataset, scenarios: Sequence[Scenario]):
        self._dataset = dataset
        self._scenarios = scenarios

    def __call__(self, completions: list[str], index: list[int], **_) -> list[float]:
        return [
            self._dataset.trainer.reward(self._scenarios[i], text.strip()).total
            for i, text in zip(index, completions, strict=True)
        ]


def train(
    policy: Policy,
    anchor: Path,
    dataset: Dataset,
    scenarios: Sequence[Scenario],
    config: RLVRConfig,
    tracker: PerformanceTracker,
) -> RLVRResult:
    """Train `policy` in place; `anchor` is the folder of the SRL policy, the frozen reference."""
    recorder = CurveRecorder(tracker, "rlvr", config.steps, CURVES)
    policy.model.name_or_path = policy.model.config._name_or_path = str(anchor)
    with TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=policy.model,
            reward_funcs=[Outcome(dataset, scenarios)],
            args=arguments(config, dataset.max_tokens(policy.tokenizer), scratch),
            train_dataset=Rows.from_list([{"prompt": s.prompt, "index": i} for i, s in enumerate(scenarios)]),
            processing_class=policy.tokenizer,
            callbacks=[recorder],
        )
        train_quietly(trainer)
    rewards = [values["reward"] for values in recorder.curves]
    kls = [values["kl"] for values in recorder.curves]
    tenth = max(1, len(rewards) // 10)
    return RLVRResult(
        first_reward=sum(rewards[:tenth]) / tenth,
        last_reward=sum(rewards[-tenth:]) / tenth,
        last_kl=sum(kls[-tenth:]) / tenth,
        highest_kl=max(kls),
    )


def arguments(config: RLVRConfig, max_tokens: int, scratch: str) -> GRPOConfig:
    """TRL's settings for GRPO on whole groups, one update a generation."""
    return GRPOConfig(
        **common_arguments(scratch, config.steps, config.seed),
        per_device_train_batch_size=config.prompts_per_step * config.group_size,
        num_generations=config.group_size,
        max_completion_length=max_tokens,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta2=0.95,
        max_grad_norm=config.max_grad_norm,
        beta=config.beta,
        epsilon=config.clip_epsilon,
        loss_type="grpo",
        temperature=config.temperature,
    )

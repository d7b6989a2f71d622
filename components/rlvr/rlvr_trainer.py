"""RLVR: outcome rewards, anchored to the frozen SRL policy.

TRL loads the reference from the policy's path, not from the object in memory: it is given the SRL policy's folder, so that
what it anchors to cannot move. Of a policy with an adapter the reference is the policy without it. Rewards are the model
type's own, in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset as Rows

from components.rlvr.hints import hints, scenario_row
from components.rlvr.ppo_trainer import PPOTrainer, attach_value_head, detach_value_head
from components.rlvr.spec import RLVRConfig, RolloutEngine
from components.rlvr.watch import RewardWatch
from components.shared.contracts.records import Scenario, Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.adapters import bare
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.world import World
from components.shared.training.exact_resume import Stateful
from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, KLSettings
from components.shared.training.policies import Policy
from components.shared.training.trl_adapter import CurveRecorder, train_quietly
from components.shared.training.validation_callback import Validation

CURVES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_variance_groups",
    "sampling/reward": "rollout_reward",
    "sampling/kept": "kept_groups",
    "sampling/rollouts_per_useful": "rollouts_per_kept_group",
    "sampling/skipped": "prompts_skipped",
    "sampling/hinted": "groups_hinted",
    "kl": "kl",
    "guard/kl": "kl_probe",
    "guard/beta": "beta",
    "guard/refused": "updates_refused",
    "loss": "policy_loss",
    "ppo/value_loss": "value_loss",
    "ppo/explained_variance": "explained_variance",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clip_fraction",
    "cispo_clip_ratio": "clip_fraction",
}
"""TRL's names and ours of what is recorded, each where there is such a thing."""
VLLM = {
    "use_vllm": True,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
}
"""Truncated importance sampling between what vLLM sampled from and what is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLVRResult:
    """Means over the first and the last tenth of the updates. KL is to the SRL policy, in nats per token."""

    updates: int
    """Accepted updates."""
    refused: int
    reason: str
    """`done`, `kl_ceiling` where updates were refused `kl.patience` times in a row, or `no_improvement`."""
    first_reward: float
    last_reward: float
    last_kl: float
    """By k3, on the rollouts."""
    highest_kl: float
    """By k3, on the rollouts."""
    highest_probe_kl: float
    """Full-vocabulary, on the probe, after an accepted update: below `kl.ceiling`."""
    alerts: tuple[str, ...]
    """One line for each thing that the watch found."""
    validation: dict[str, Any]
    """The policy at the start, at its best, whose weights it has, and at the end of training."""


class Outcome:
    """The reward function that TRL calls: completions of known scenarios, by the model type's outcome verifier."""

    __name__ = "outcome"

    def __init__(self, dataset: Dataset, scenarios: Sequence[Scenario]):
        self._dataset = dataset
        self._scenarios = scenarios

    def __call__(self, completions: list[str], index: list[int], hint: list[str], **_) -> list[float]:
        return [
            self._dataset.trainer.reward(self._scenarios[i], f"{given} {text}".strip()).total
            for i, given, text in zip(index, hint, completions, strict=True)
        ]


def train(
    policy: Policy,
    reference: Policy,
    anchor: Path,
    dataset: Dataset,
    scenarios: Sequence[Scenario],
    config: RLVRConfig,
    tracker: PerformanceTracker,
    checkpoints: Checkpoints | None = None,
) -> RLVRResult:
    """Train `policy` in place, from its newest checkpoint where there is one.

    `anchor` is the folder of the SRL policy and `reference` the same, loaded: neither moves.
    """
    recorder = CurveRecorder(tracker, "rlvr", config.steps, CURVES)
    held_out = list(dataset.scenarios(Split.VALIDATION))
    max_tokens = dataset.max_tokens(policy.tokenizer)
    probe = KLProbe(reference, [s.prompt for s in held_out[: config.kl.probe_prompts]], max_tokens)
    guard = KLGuard(probe, config.kl, config.beta)
    watch = RewardWatch(policy, dataset.trainer, held_out[: config.watch.prompts], max_tokens, config.watch, tracker)
    world = World.of_environment()
    validation = Validation.of(config.validation, policy, dataset.trainer, held_out, max_tokens, tracker, world)
    policy.model.name_or_path = policy.model.config._name_or_path = str(anchor)
    if config.algorithm == Algorithm.PPO:
        attach_value_head(bare(policy.model))
    with TemporaryDirectory() as scratch:
        trainer = optimizer_class(config)(
            model=policy.model,
            reward_funcs=[Outcome(dataset, scenarios)],
            args=trl_arguments(config, max_tokens, scratch),
            train_dataset=Rows.from_list([dict(scenario_row(s, i)) for i, s in enumerate(scenarios)]),
            processing_class=policy.tokenizer,
            callbacks=[recorder, watch, validation],
            sampling=config.sampling,
            scoring=config.scoring,
            guard=guard,
            hint=hints(scenarios, dataset.trajectories(Split.TRAIN), config.hints.steps_share),
            max_hinted=int(config.hints.max_share * config.prompts_per_step),
            **({"ppo": config.ppo} if config.algorithm == Algorithm.PPO else {}),
        )
        companions: dict[str, Stateful] = {
            "tracker": tracker,
            "curves": recorder,
            "watch": watch,
            "validation": validation,
        }
        trainer.resume_with(checkpoints, companions)
        train_quietly(trainer)
        validation.finish(trainer.state.global_step)
    if config.algorithm == Algorithm.PPO:
        detach_value_head(bare(policy.model))
    alerts = [*watch.alerts, *kl_alerts(recorder.curves, guard, config.kl)]
    return summarize(trainer.state.global_step, config.steps, recorder.curves, guard, validation, alerts)


def optimizer_class(config: RLVRConfig) -> type[PolicyOptimizer]:
    """The trainer of the algorithm."""
    return PPOTrainer if config.algorithm == Algorithm.PPO else PolicyOptimizer


def trl_arguments(config: RLVRConfig, max_tokens: int, scratch: str) -> Any:
    """TRL's settings for the configuration."""
    update = Update(
        algorithm=config.algorithm,
        steps=config.steps,
        seed=config.seed,
        prompts=config.prompts_per_step,
        group_size=config.group_size,
        max_tokens=max_tokens,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        beta=config.beta,
        temperature=config.temperature,
        clip_epsilon=config.clip_epsilon,
        accumulation=config.accumulation,
        updates_per_rollout=config.updates_per_rollout,
        iterations=config.iterations,
        entropy_weight=config.ppo.entropy_weight if config.algorithm == Algorithm.PPO else 0.0,
    )
    engines = {
        RolloutEngine.TRANSFORMERS: {},
        RolloutEngine.VLLM_COLOCATE: VLLM | {"vllm_mode": "colocate"},
        RolloutEngine.VLLM_SERVER: VLLM | {"vllm_mode": "server", "vllm_server_base_url": config.vllm_url},
    }
    return arguments(update, scratch, **engines[config.rollouts])


def kl_alerts(curves: Sequence[dict[str, float]], guard: KLGuard, settings: KLSettings) -> list[str]:
    """A line where updates were refused, and one where the rollouts' own KL went past the ceiling that the probe keeps."""
    lines = []
    if guard.controller.refused:
        lines.append(
            f"{guard.controller.refused} updates undone at the KL ceiling of {settings.ceiling} nats per token"
        )
    highest = max(values["kl"] for values in curves)
    if highest >= settings.ceiling:
        lines.append(
            f"KL on rollouts reached {highest:.3f} nats per token, the probe's {guard.controller.highest_accepted:.3f}"
        )
    return lines


def summarize(
    steps: int,
    of: int,
    curves: Sequence[dict[str, float]],
    guard: KLGuard,
    validation: Validation,
    alerts: Sequence[str],
) -> RLVRResult:
    """The result of `steps` updates, of as many as were wanted, the last one refused where the ceiling ended them; curves
    have an entry a rollout."""
    rewards = [values["rollout_reward"] for values in curves]
    kls = [values["kl"] for values in curves]
    tenth = max(1, len(rewards) // 10)
    ended_early = guard.controller.exhausted
    return RLVRResult(
        updates=steps - ended_early,
        refused=guard.controller.refused,
        reason="kl_ceiling" if ended_early else validation.reason(steps, of),
        first_reward=sum(rewards[:tenth]) / tenth,
        last_reward=sum(rewards[-tenth:]) / tenth,
        last_kl=sum(kls[-tenth:]) / tenth,
        highest_kl=max(kls),
        highest_probe_kl=guard.controller.highest_accepted,
        alerts=tuple(alerts),
        validation=validation.loop.summary(),
    )

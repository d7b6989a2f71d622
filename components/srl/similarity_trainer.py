"""SRL in the paper's reading (arXiv 2510.25992): imitate the expert step by step, by reward.

For every step of the experts' trajectories a group of next steps is sampled; a sample's reward is its likeness to the
expert's step, and GRPO with dynamic sampling learns from the groups whose rewards differ. Departures from the paper: a
floor is subtracted from the likeness, and the hard KL ceiling of the specification holds here too. It needs no penalty, so
that the penalty's coefficient may be 0, as in the paper, in which case no reference is evaluated on rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset as Rows

from components.shared.contracts.records import Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, KLSettings
from components.shared.training.policies import Policy
from components.shared.training.trl_adapter import CurveRecorder, train_quietly
from components.shared.training.validation_callback import Validation
from components.srl.spec import Likeness, SimilaritySettings, SRLConfig, StepFormat
from components.srl.step_rewards import FORMAT_ERROR, above_floor, exact, fast, typed
from components.srl.step_tasks import StepTask, read_step, step_tasks

TARGET_SHARE = 0.75
"""Where below its ceiling the KL is steered to, where there is a penalty to steer with."""
CURVES = {
    "reward": "likeness",
    "reward_std": "likeness_std",
    "sampling/reward": "rollout_likeness",
    "sampling/kept": "kept_groups",
    "sampling/rollouts_per_useful": "rollouts_per_kept_group",
    "sampling/skipped": "prompts_skipped",
    "guard/kl": "kl_probe",
    "guard/beta": "beta",
    "guard/refused": "updates_refused",
    "loss": "policy_loss",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
}
"""TRL's names and ours of what is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityResult:
    """How training went. Likenesses are above the floor, means over the rollouts of the first and the last tenth of the
    updates; with dynamic sampling these turn to steps that are still undecided, and so lag behind the policy."""

    updates: int
    """Accepted updates."""
    refused: int
    highest_kl: float
    """Highest probe KL after an accepted update, nats per token."""
    reason: str
    """`done`, `kl_ceiling` where updates were refused `patience` times in a row, or `no_improvement`."""
    first_likeness: float
    last_likeness: float
    tasks: int
    """Steps to learn from."""
    validation: dict[str, Any]
    """The policy at the start, at its best, whose weights it has, and at the end of training."""


class StepLikeness:
    """The reward function that TRL calls: sampled steps of known tasks against the expert's."""

    __name__ = "likeness"

    def __init__(self, judge: ModelTypeTrainer, tasks: Sequence[StepTask], settings: SimilaritySettings):
        self._judge, self._tasks, self._settings = judge, tasks, settings

    def __call__(self, completions: list[str], index: list[int], **_) -> list[float]:
        return [self.reward(self._tasks[i], text) for i, text in zip(index, completions, strict=True)]

    def reward(self, task: StepTask, text: str) -> float:
        """In [0, 1], or -1 for an answer that breaks the format."""
        step = read_step(text, self._settings.format)
        if step is None:
            return FORMAT_ERROR
        return above_floor(self._likeness(task, step), self._settings.floor)

    def _likeness(self, task: StepTask, step: str) -> float:
        match self._settings.likeness:
            case Likeness.EXACT:
                return exact(step, task.expected)
            case Likeness.FAST:
                return fast(step, task.expected)
            case Likeness.TYPED:
                return self._typed(task, step)

    def _typed(self, task: StepTask, text: str) -> float:
        """The step's fields, read by the model type's own parser from the expert's answer with this step in its place."""
        steps = list(task.trajectory.steps)
        expert = steps[task.position]
        steps[task.position] = expert.model_copy(update={"text": text})
        action = self._judge.parse(task.trajectory.scenario, self._judge.completion(steps))
        return typed(None if action is None else self._judge.step_action(action, expert), expert.action)


def train(
    policy: Policy,
    reference: Policy,
    anchor: Path,
    dataset: Dataset,
    config: SRLConfig,
    tracker: PerformanceTracker,
    validation: Validation,
    checkpoints: Checkpoints | None = None,
) -> SimilarityResult:
    """Train `policy` in place, from its newest checkpoint where there is one.

    `anchor` is the folder of the base policy and `reference` the same, loaded.
    """
    settings = config.similarity
    tasks = step_tasks(dataset.trajectories(Split.TRAIN), settings.format, settings.show_title)
    recorder = CurveRecorder(tracker, "srl", settings.steps, CURVES)
    kl = KLSettings(
        target=TARGET_SHARE * config.max_kl,
        ceiling=config.max_kl,
        patience=config.patience,
        probe_prompts=config.probe_prompts,
    )
    held_out = [t.scenario.prompt for t in dataset.trajectories(Split.VALIDATION)]
    guard = KLGuard(
        KLProbe(reference, held_out[: kl.probe_prompts], dataset.max_tokens(policy.tokenizer)), kl, settings.kl_weight
    )
    policy.model.name_or_path = policy.model.config._name_or_path = str(anchor)
    rows = task_rows(policy, tasks, settings)
    with TemporaryDirectory() as scratch:
        trainer = PolicyOptimizer(
            model=policy.model,
            reward_funcs=[StepLikeness(dataset.trainer, tasks, settings)],
            args=trl_arguments(config, max(row["max_tokens"] for row in rows), scratch),
            train_dataset=Rows.from_list(rows),
            processing_class=policy.tokenizer,
            callbacks=[recorder, validation],
            sampling=settings.sampling,
            guard=guard,
        )
        trainer.resume_with(checkpoints, {"tracker": tracker, "curves": recorder, "validation": validation})
        train_quietly(trainer)
        validation.finish(trainer.state.global_step)
    return summarize(settings.steps, recorder.curves, guard, validation, len(tasks))


def task_rows(policy: Policy, tasks: Sequence[StepTask], settings: SimilaritySettings) -> list[dict[str, Any]]:
    """TRL's rows, each with its own limit: in the plain format the expert's length, since a policy that writes whole
    answers goes on with the next step, for which this step's reward must not pay."""
    lengths = [len(ids) for ids in policy.tokenizer([t.expected for t in tasks], add_special_tokens=False)["input_ids"]]
    room = settings.think_tokens + max(lengths) + 1
    thinks = settings.format == StepFormat.THINK_ACT
    return [
        {"prompt": task.prompt, "index": i, "max_tokens": room if thinks else length}
        for i, (task, length) in enumerate(zip(tasks, lengths, strict=True))
    ]


def trl_arguments(config: SRLConfig, max_tokens: int, scratch: str) -> Any:
    """TRL's settings: GRPO, one update a rollout."""
    settings = config.similarity
    update = Update(
        algorithm=Algorithm.GRPO,
        steps=settings.steps,
        seed=config.seed,
        prompts=settings.prompts_per_step,
        group_size=settings.group_size,
        max_tokens=max_tokens,
        learning_rate=settings.learning_rate,
        max_grad_norm=config.max_grad_norm,
        beta=settings.kl_weight,
        temperature=settings.temperature,
    )
    return arguments(update, scratch)


def summarize(
    steps: int, curves: Sequence[dict[str, float]], guard: KLGuard, validation: Validation, tasks: int
) -> SimilarityResult:
    """The result of a run that wanted `steps` updates from its curves, an entry an update, the last one refused where the
    ceiling ended it."""
    likenesses = [values["rollout_likeness"] for values in curves]
    tenth = max(1, len(likenesses) // 10)
    ended_early = guard.controller.exhausted
    return SimilarityResult(
        updates=len(curves) - ended_early,
        refused=guard.controller.refused,
        highest_kl=guard.controller.highest_accepted,
        reason="kl_ceiling" if ended_early else validation.reason(len(curves), steps),
        first_likeness=sum(likenesses[:tenth]) / tenth,
        last_likeness=sum(likenesses[-tenth:]) / tenth,
        tasks=tasks,
        validation=validation.loop.summary(),
    )

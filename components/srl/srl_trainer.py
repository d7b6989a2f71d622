"""SRL by the specification: the likelihood of each expert step, weighted by how sound the step is, near the base policy.

    loss = - mean_t w_t log p(y_t) + beta * KL(p || base),    w_t = max(0, 1 + z(reward of t's step))

The KL is exact over the vocabulary, a mean per completion token. After every update it is measured again on a fixed probe
of held-out trajectories; an update that brings it to `max_kl` is undone and tried again with half the step.

Over several processes each takes a share of every batch and of the probe; all means are over the whole of them, so that
the losses are those of one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Trajectory
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.performance.validation_loop import ValidationLoop, ValidationSettings
from components.shared.training.batches import batches
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.learner import Learner, create_learner
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.world import World
from components.shared.training.divergence import full_kl
from components.shared.training.kl_controller import KLController
from components.shared.training.packing import Tokens, can_pack, lay_out, packing, token_logprobs
from components.shared.training.policies import Policy
from components.shared.training.reference_logprobs import ReferenceLogprobs
from components.shared.training.supervised import Example, example
from components.shared.training.validation_callback import Validation
from components.srl.reward_normalizer import RewardNormalizer
from components.srl.spec import SRLConfig

TARGET_SHARE = 0.75
"""Where below its ceiling the KL is steered to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SRLResult:
    """How training went."""

    updates: int
    """Accepted updates."""
    refused: int
    highest_kl: float
    """Highest probe KL after an accepted update, nats per token."""
    reason: str
    """`done`, `kl_ceiling` where updates were refused `patience` times in a row, or `no_improvement`."""
    validation: dict[str, Any]
    """The policy at the start, at its best, whose weights it has, and at the end of training."""


def train(
    policy: Policy,
    reference: Policy,
    train_rows: Sequence[Trajectory],
    probe_rows: Sequence[Trajectory],
    config: SRLConfig,
    tracker: PerformanceTracker,
    learner: Learner | None = None,
    checkpoints: Checkpoints | None = None,
    validation: Validation | None = None,
) -> SRLResult:
    """Train `policy` in place, from its newest checkpoint where there is one.

    `reference` is the base policy and stays as it is. Without a learner the policy trains on this process alone, without
    checkpoints nothing is saved on the way, and without a validation loop it is not looked at.
    """
    learner = learner or create_learner(policy.model, Strategy.SINGLE, World(), optimizer_settings(config))
    checkpoints = checkpoints or Checkpoints(folder=None)
    validation = validation or Validation(ValidationLoop(settings=ValidationSettings()), tracker, policy.model, list)
    normalizer = RewardNormalizer.fit([step.reward for row in train_rows for step in row.steps])
    rows = [weighted_example(policy, row, normalizer) for row in train_rows]
    probe = [weighted_example(policy, row, normalizer) for row in probe_rows[: config.probe_prompts]]
    packed = config.packing and can_pack(reference, rows, learner.world.device)
    with checkpoints, packing(policy.model, packed), packing(reference.model, packed):
        run = WeightedRun(learner, reference, rows, probe, config, tracker, packed, validation)
        updates = run.resume(checkpoints)
        validation.start()
        order = islice(batches(len(rows), config.batch_size, config.seed, updates), config.steps - updates)
        for indices in progress(order, "srl", total=config.steps, done=updates):
            if run.controller.exhausted or validation.stopped or not run.update(updates, indices):
                break
            updates += 1
            validation.after_update(updates)
            checkpoints.after_step(updates, run.state)
        checkpoints.save(updates, run.state)
        validation.finish(updates)
    return SRLResult(
        updates=updates,
        refused=run.controller.refused,
        highest_kl=run.controller.highest_accepted,
        reason="kl_ceiling" if run.controller.exhausted else validation.reason(updates, config.steps),
        validation=validation.loop.summary(),
    )


def optimizer_settings(config: SRLConfig) -> AdamWSettings:
    return AdamWSettings(max_grad_norm=config.max_grad_norm)


def weighted_example(policy: Policy, row: Trajectory, normalizer: RewardNormalizer) -> Example:
    """A trajectory as a supervised row whose tokens carry their step's weight."""
    weights = [normalizer.weight(step.reward) for step in row.steps]
    return example(policy, row.scenario.prompt, [step.text for step in row.steps], weights)


def learning_rate(config: SRLConfig, step: int) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * max(0.1, 1 - step / config.steps)


class WeightedRun:
    """One run's state: the learner, the KL controller and what was recorded; the rest follows from the configuration."""

    def __init__(
        self,
        learner: Learner,
        reference: Policy,
        rows: Sequence[Example],
        probe: Sequence[Example],
        config: SRLConfig,
        tracker: PerformanceTracker,
        packed: bool,
        validation: Validation,
    ):
        """`packed` rows need both models inside `packing`."""
        self._validation = validation
        self._learner, self._world = learner, learner.world
        self._rows, self._config, self._tracker = rows, config, tracker
        self._pad_id, self._packed = reference.tokenizer.pad_token_id, packed
        reference.model.eval()
        self._reference = ReferenceLogprobs(reference, rows, self._world, packed)
        self._probe = self._lay_out(self._world.share(probe, "validation trajectories"))
        with torch.no_grad():
            self._probe_reference_TV = token_logprobs(reference.model, self._probe)
        self.controller = KLController(
            beta=config.kl_weight,
            beta_floor=config.kl_weight,
            target_nats_per_token=TARGET_SHARE * config.max_kl,
            ceiling_nats_per_token=config.max_kl,
            patience=config.patience,
        )

    def resume(self, checkpoints: Checkpoints) -> int:
        """Take up the newest checkpoint; returns how many updates are done."""
        saved = checkpoints.resume()
        if saved is None:
            return 0
        self._learner.restore(saved.common["learner"])
        self.controller.restore(saved.common["controller"])
        self._tracker.restore(saved.common["tracker"])
        self._validation.restore(saved.common["validation"])
        return saved.step

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "learner": self._learner.state(),
            "controller": self.controller.state(),
            "tracker": self._tracker.state(),
            "validation": self._validation.state(),
        }

    def update(self, step: int, indices: Sequence[int]) -> bool:
        """One update, tried until the probe's KL allows it; false, and nothing changed, where patience ran out."""
        mine = self._world.share(indices, "trajectories an update")
        tokens = self._lay_out([self._rows[i] for i in mine])
        reference_TV = self._reference.of(mine, tokens)
        put_back = self._learner.snapshot()
        while True:
            measured = self._step(tokens, reference_TV, learning_rate(self._config, step))
            kl = self._probe_kl()
            accepted = self.controller.accept(kl)
            self._tracker.log(step, kl_probe=kl, beta=self.controller.beta, accepted=float(accepted), **measured)
            if accepted:
                return True
            put_back()
            if self.controller.exhausted:
                return False

    def _lay_out(self, rows: Sequence[Example]) -> Tokens:
        return lay_out(rows, self._pad_id, self._world.device, packed=self._packed)

    def _step(self, tokens: Tokens, reference_TV: torch.Tensor, rate: float) -> dict[str, float]:
        """One optimiser step; returns what it measured before the step."""
        self._learner.model.train()
        logprobs_TV = token_logprobs(self._learner.model, tokens)
        logp_T = logprobs_TV.gather(-1, tokens.targets_T[:, None]).squeeze(-1)
        likelihood = self._mean(logp_T * tokens.weights_T)
        kl = self._mean(full_kl(logprobs_TV, reference_TV))
        loss = -likelihood + self.controller.beta * kl
        rate *= self.controller.step_scale
        norm = self._learner.step(loss * self._world.size, rate)
        nll = -self._mean(logp_T.detach())
        values = {"loss": loss, "supervised_loss": -likelihood, "nll": nll, "kl": kl}
        totals = {name: self._world.sum(value).item() for name, value in values.items()}
        return totals | {"grad_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def _probe_kl(self) -> float:
        """KL of the policy to its reference on the whole probe, nats per token."""
        self._learner.model.eval()
        divergence_T = full_kl(token_logprobs(self._learner.model, self._probe), self._probe_reference_TV)
        return self._world.sum(self._mean(divergence_T)).item()

    def _mean(self, values_T: torch.Tensor) -> torch.Tensor:
        """This process's share of the mean over the completion tokens of all processes."""
        return values_T.sum() / self._world.sum(values_T.new_tensor(len(values_T)))

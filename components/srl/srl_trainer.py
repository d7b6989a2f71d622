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
from components.shared.training.batches import batches
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.learner import Learner, create_learner
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.world import World
from components.shared.training.divergence import full_kl
from components.shared.training.kl_controller import KLController
from components.shared.training.policies import Policy
from components.shared.training.supervised import Batch, Example, chosen, collate, completion_logprobs, example
from components.srl.reward_normalizer import RewardNormalizer
from components.srl.spec import SRLConfig

PROBE_ROWS = 64
CACHE_BYTES = 2**30
"""Memory for the reference's log-probabilities; past it they are computed anew for every batch."""
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
    """`done`, or `kl_ceiling` where updates were refused `patience` times in a row."""


def train(
    policy: Policy,
    reference: Policy,
    train_rows: Sequence[Trajectory],
    probe_rows: Sequence[Trajectory],
    config: SRLConfig,
    tracker: PerformanceTracker,
    learner: Learner | None = None,
    checkpoints: Checkpoints | None = None,
) -> SRLResult:
    """Train `policy` in place, from its newest checkpoint where there is one.

    `reference` is the base policy and stays as it is. Without a learner the policy trains on this process alone, without
    checkpoints nothing is saved on the way.
    """
    learner = learner or create_learner(policy.model, Strategy.SINGLE, World(), optimizer_settings(config))
    checkpoints = checkpoints or Checkpoints(folder=None)
    normalizer = RewardNormalizer.fit([step.reward for row in train_rows for step in row.steps])
    rows = [weighted_example(policy, row, normalizer) for row in train_rows]
    probe = [weighted_example(policy, row, normalizer) for row in probe_rows[:PROBE_ROWS]]
    run = WeightedRun(learner, reference, rows, probe, config, tracker)
    with checkpoints:
        updates = run.resume(checkpoints)
        order = islice(batches(len(rows), config.batch_size, config.seed, updates), config.steps - updates)
        for indices in progress(order, "srl", total=config.steps, done=updates):
            if run.controller.exhausted or not run.update(updates, indices):
                break
            updates += 1
            checkpoints.after_step(updates, run.state)
        checkpoints.save(updates, run.state)
    reason = "kl_ceiling" if run.controller.exhausted else "done"
    return SRLResult(
        updates=updates, refused=run.controller.refused, highest_kl=run.controller.highest_accepted, reason=reason
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
    ):
        self._learner, self._world = learner, learner.world
        self._rows, self._config, self._tracker = rows, config, tracker
        self._pad_id = reference.tokenizer.pad_token_id
        reference.model.eval()
        self._reference = ReferenceLogprobs(reference, rows, self._world)
        self._probe = self._collate(self._world.share(probe, "validation trajectories"))
        with torch.no_grad():
            self._probe_reference = completion_logprobs(reference.model, self._probe)
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
        return saved.step

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "learner": self._learner.state(),
            "controller": self.controller.state(),
            "tracker": self._tracker.state(),
        }

    def update(self, step: int, indices: Sequence[int]) -> bool:
        """One update, tried until the probe's KL allows it; false, and nothing changed, where patience ran out."""
        mine = self._world.share(indices, "trajectories an update")
        batch = self._collate([self._rows[i] for i in mine])
        reference_BCV = self._reference.batch(mine, batch)
        put_back = self._learner.snapshot()
        while True:
            measured = self._step(batch, reference_BCV, learning_rate(self._config, step))
            kl = self._probe_kl()
            accepted = self.controller.accept(kl)
            self._tracker.log(step, kl_probe=kl, beta=self.controller.beta, accepted=float(accepted), **measured)
            if accepted:
                return True
            put_back()
            if self.controller.exhausted:
                return False

    def _collate(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self._pad_id).to(self._world.device)

    def _step(self, batch: Batch, reference_BCV: torch.Tensor, rate: float) -> dict[str, float]:
        """One optimiser step; returns what it measured before the step."""
        self._learner.model.train()
        logprobs_BCV = completion_logprobs(self._learner.model, batch)
        logp_BC = chosen(logprobs_BCV, batch)
        likelihood = self._mean(logp_BC * batch.weights_BC, batch)
        kl = self._mean(full_kl(logprobs_BCV, reference_BCV), batch)
        loss = -likelihood + self.controller.beta * kl
        rate *= self.controller.step_scale
        norm = self._learner.step(loss * self._world.size, rate)
        nll = -self._mean(logp_BC.detach(), batch)
        values = {"loss": loss, "supervised_loss": -likelihood, "nll": nll, "kl": kl}
        totals = {name: self._world.sum(value).item() for name, value in values.items()}
        return totals | {"grad_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def _probe_kl(self) -> float:
        """KL of the policy to its reference on the whole probe, nats per token."""
        self._learner.model.eval()
        divergence_BC = full_kl(completion_logprobs(self._learner.model, self._probe), self._probe_reference)
        return self._world.sum(self._mean(divergence_BC, self._probe)).item()

    def _mean(self, values_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        """This process's share of the mean over the completion tokens of all processes."""
        return (values_BC * batch.mask_BC).sum() / self._world.sum(batch.mask_BC.sum())


class ReferenceLogprobs:
    """The reference's log-probabilities of every row, computed once where they fit in CACHE_BYTES.

    On several processes they are computed anew for every batch: a reference that is split needs all of them at once.
    """

    def __init__(self, reference: Policy, rows: Sequence[Example], world: World):
        self._reference, self._world = reference, world
        vocabulary = reference.model.config.vocab_size
        self._kept: list[torch.Tensor] | None = None
        if world.size == 1 and 4 * vocabulary * sum(len(row.completion_ids) for row in rows) <= CACHE_BYTES:
            self._kept = [
                logprobs for start in range(0, len(rows), 256) for logprobs in self._compute(rows[start : start + 256])
            ]

    @torch.no_grad()
    def _compute(self, rows: Sequence[Example]) -> list[torch.Tensor]:
        batch = collate(rows, self._reference.tokenizer.pad_token_id).to(self._world.device)
        logprobs_BCV = completion_logprobs(self._reference.model, batch)
        return [logprobs_BCV[i, : len(row.completion_ids)].clone() for i, row in enumerate(rows)]

    @torch.no_grad()
    def batch(self, indices: Sequence[int], batch: Batch) -> torch.Tensor:
        """The rows' log-probabilities (B, C, V), aligned with `batch`."""
        if self._kept is None:
            return completion_logprobs(self._reference.model, batch)
        return torch.nn.utils.rnn.pad_sequence([self._kept[i] for i in indices], batch_first=True)

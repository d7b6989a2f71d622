"""SRL by the specification: the likelihood of each expert step, weighted by how sound the step is, near the base policy.

    loss = - mean_t w_t log p(y_t) + beta * KL(p || base),    w_t = max(0, 1 + z(reward of t's step))

The KL is exact over the vocabulary, a mean per completion token. After every update it is measured again on a fixed probe
of held-out trajectories; an update that brings it to `max_kl` is undone and tried again with half the step.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from components.shared.contracts.records import Trajectory
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.training.batches import batches
from components.shared.training.divergence import full_kl
from components.shared.training.kl_controller import KLController
from components.shared.training.policies import Policy
from components.shared.training.supervised import (
    Batch,
    Example,
    chosen,
    collate,
    completion_logprobs,
    example,
    masked_mean,
)
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
) -> SRLResult:
    """Train `policy` in place. `reference` is the base policy and stays as it is."""
    normalizer = RewardNormalizer.fit([step.reward for row in train_rows for step in row.steps])
    rows = [weighted_example(policy, row, normalizer) for row in train_rows]
    pad_id = policy.tokenizer.pad_token_id
    probe = collate([weighted_example(policy, row, normalizer) for row in probe_rows[:PROBE_ROWS]], pad_id)
    reference.model.eval()
    cached = ReferenceLogprobs(reference, rows)
    with torch.no_grad():
        probe_reference = completion_logprobs(reference.model, probe)
    controller = KLController(
        beta=config.kl_weight,
        beta_floor=config.kl_weight,
        target_nats_per_token=TARGET_SHARE * config.max_kl,
        ceiling_nats_per_token=config.max_kl,
        patience=config.patience,
    )
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    updates = 0
    order = islice(batches(len(rows), config.batch_size, config.seed), config.steps)
    for step, indices in enumerate(progress(order, "srl", total=config.steps)):
        batch = collate([rows[i] for i in indices], pad_id)
        target = cached.batch(indices, batch)
        snapshot = take_snapshot(policy.model, optimizer)
        while True:
            measured = update(
                policy, optimizer, batch, target, controller, learning_rate(config, step), config.max_grad_norm
            )
            kl = probe_kl(policy, probe, probe_reference)
            accepted = controller.accept(kl)
            tracker.log(step, kl_probe=kl, beta=controller.beta, accepted=float(accepted), **measured)
            if accepted or controller.exhausted:
                break
            put_back(policy.model, optimizer, snapshot)
        if not accepted:
            put_back(policy.model, optimizer, snapshot)
            break
        updates += 1
    reason = "kl_ceiling" if controller.exhausted else "done"
    return SRLResult(updates=updates, refused=controller.refused, highest_kl=controller.highest_accepted, reason=reason)


def weighted_example(policy: Policy, row: Trajectory, normalizer: RewardNormalizer) -> Example:
    """A trajectory as a supervised row whose tokens carry their step's weight."""
    weights = [normalizer.weight(step.reward) for step in row.steps]
    return example(policy, row.scenario.prompt, [step.text for step in row.steps], weights)


def learning_rate(config: SRLConfig, step: int) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * max(0.1, 1 - step / config.steps)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    reference_BCV: torch.Tensor,
    controller: KLController,
    rate: float,
    max_grad_norm: float,
) -> dict[str, float]:
    """One optimiser step; returns what it measured before the step."""
    policy.model.train()
    logprobs_BCV = completion_logprobs(policy.model, batch)
    logp_BC = chosen(logprobs_BCV, batch)
    likelihood = masked_mean(logp_BC * batch.weights_BC, batch.mask_BC)
    kl = masked_mean(full_kl(logprobs_BCV, reference_BCV), batch.mask_BC)
    loss = -likelihood + controller.beta * kl
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate * controller.step_scale
    optimizer.step()
    nll = -masked_mean(logp_BC.detach(), batch.mask_BC)
    values = {"loss": loss, "supervised_loss": -likelihood, "nll": nll, "kl": kl, "grad_norm": norm}
    return {name: value.item() for name, value in values.items()} | {"learning_rate": rate * controller.step_scale}


@torch.no_grad()
def probe_kl(policy: Policy, probe: Batch, reference_BCV: torch.Tensor) -> float:
    """KL of the policy to its reference on the probe, nats per token."""
    policy.model.eval()
    return masked_mean(full_kl(completion_logprobs(policy.model, probe), reference_BCV), probe.mask_BC).item()


def take_snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[torch.Tensor], dict]:
    """Trainable parameters and the optimiser's state, copied."""
    weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    return weights, copy.deepcopy(optimizer.state_dict())


@torch.no_grad()
def put_back(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, snapshot: tuple[list[torch.Tensor], dict]
) -> None:
    """Undo everything since the snapshot, which stays usable."""
    weights, state = snapshot
    for parameter, saved in zip((p for p in model.parameters() if p.requires_grad), weights, strict=True):
        parameter.copy_(saved)
    optimizer.load_state_dict(copy.deepcopy(state))


class ReferenceLogprobs:
    """The reference's log-probabilities of every row, computed once where they fit in CACHE_BYTES."""

    def __init__(self, reference: Policy, rows: Sequence[Example]):
        self._reference = reference
        vocabulary = reference.model.config.vocab_size
        self._kept: list[torch.Tensor] | None = None
        if 4 * vocabulary * sum(len(row.completion_ids) for row in rows) <= CACHE_BYTES:
            self._kept = [
                logprobs for start in range(0, len(rows), 256) for logprobs in self._compute(rows[start : start + 256])
            ]

    @torch.no_grad()
    def _compute(self, rows: Sequence[Example]) -> list[torch.Tensor]:
        logprobs_BCV = completion_logprobs(self._reference.model, collate(rows, self._reference.tokenizer.pad_token_id))
        return [logprobs_BCV[i, : len(row.completion_ids)].clone() for i, row in enumerate(rows)]

    @torch.no_grad()
    def batch(self, indices: Sequence[int], batch: Batch) -> torch.Tensor:
        """The rows' log-probabilities (B, C, V), aligned with `batch`."""
        if self._kept is None:
            return completion_logprobs(self._reference.model, batch)
        return torch.nn.utils.rnn.pad_sequence([self._kept[i] for i in indices], batch_first=True)

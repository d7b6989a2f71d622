"""One model in training, on one process or spread over many: the same calls, the same losses.

    single      one process
    ddp         a copy on every process, gradients averaged (DistributedDataParallel)
    fsdp        FSDP2: parameters, gradients and moments split by rows, a layer gathered when it is used (fully_shard)
    deepspeed   ZeRO-3: the same by flat pieces, with its own engine (deepspeed_learner)

A loss is this process's share of a mean over the whole batch, multiplied by the number of processes, since all three
average the gradients.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import UsageError
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.spreading import assembled, spread
from components.shared.training.distributed.world import World
from components.shared.training.snapshots import Snapshot
from components.shared.training.training_state import load_model, load_optimizer, model_state, optimizer_state


class Learner(Protocol):
    """A model that can be called, stepped, undone, saved and put together again."""

    world: World
    model: torch.nn.Module
    """What to call: on every process, with as many calls."""

    def step(self, loss: torch.Tensor, rate: float) -> float:
        """Back-propagate, clip and update; returns the norm of the whole gradient before clipping."""

    def snapshot(self) -> Callable[[], None]:
        """Copies parameters and moments and returns what puts them back, as often as wanted."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, this process's part."""

    def restore(self, state: dict[str, Any]) -> None:
        """Back to a saved state, of any strategy and number of processes."""

    def weights(self) -> dict[str, torch.Tensor]:
        """All tensors of the model by name, whole, on the CPU. Every process must call it."""


class TorchLearner:
    """AdamW on a plain, a replicated or a row-sharded model."""

    def __init__(self, model: torch.nn.Module, wrapped: torch.nn.Module, world: World, settings: AdamWSettings):
        self.world = world
        self.model = wrapped
        self._plain = model
        self._settings = settings
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay
        )

    def step(self, loss: torch.Tensor, rate: float) -> float:
        self._optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._plain.parameters(), self._settings.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def snapshot(self) -> Callable[[], None]:
        taken = Snapshot.take(self._plain, self._optimizer)
        return functools.partial(taken.put_back, self._plain, self._optimizer)

    def state(self) -> dict[str, Any]:
        return {"model": model_state(self._plain), "optimizer": optimizer_state(self._optimizer, self._plain)}

    def restore(self, state: dict[str, Any]) -> None:
        load_model(self._plain, state["model"])
        load_optimizer(self._optimizer, self._plain, state["optimizer"])

    def weights(self) -> dict[str, torch.Tensor]:
        return assembled(self._plain)


def create_learner(model: PreTrainedModel, strategy: Strategy, world: World, settings: AdamWSettings) -> Learner:
    """The learner of a strategy around `model`, which is changed in place. Raises UsageError for one that cannot be."""
    if strategy == Strategy.DEEPSPEED and world.size > 1:
        try:
            from components.shared.training.distributed.deepspeed_learner import DeepSpeedLearner
        except ModuleNotFoundError as error:
            raise UsageError(f"strategy deepspeed: {error}: install the extra `deepspeed`, or use fsdp") from error
        return DeepSpeedLearner(model, world, settings)
    return TorchLearner(model, spread(model, strategy, world), world, settings)

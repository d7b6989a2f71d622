"""TRL's trainers under the job's strategy.

    class OurTrainer(SpreadTrainer, ExactResume, GRPOTrainer): ...

DDP is accelerate's to do. Asked for FSDP on a CPU, transformers' trainer falls back to DDP and says nothing; here the model
is sharded before the trainer sees it, and marked as transformers marks one that it sharded while loading: the trainer
then leaves placement and gradients to the model, and generation keeps the processes in step. Whatever was asked for, what
comes out is looked at before the first update.
"""

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from components.shared.contracts.environment import Strategy
from components.shared.training.distributed.launch import strategy_of_job
from components.shared.training.distributed.spreading import assert_spread, spread, spread_frozen
from components.shared.training.distributed.world import World

if TYPE_CHECKING:
    from transformers import Trainer as Host
else:
    Host = object


class SpreadTrainer(Host):
    """Mix-in before a TRL trainer that is given its arguments by name."""

    def __init__(self, **kwargs: Any):
        self._world, self._strategy = World.of_environment(), strategy_of_job()
        if self._world.size > 1:
            self._spread(kwargs["model"])
        super().__init__(**kwargs)
        reference = getattr(self, "ref_model", None)
        if self._world.size > 1 and reference is not None:
            spread_frozen(reference, self._strategy, self._world)

    def _spread(self, model: PreTrainedModel) -> None:
        if self._strategy == Strategy.FSDP:
            spread(model, self._strategy, self._world)
            for mark in ("_is_distributed_loading_by_transformers", "_is_fsdp_managed_module"):
                setattr(model, mark, True)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> tuple[nn.Module, Any]:
        model, loader = super()._prepare_for_training(*args, **kwargs)
        if self._world.size > 1:
            assert_spread(model, self._strategy)
        return model, loader

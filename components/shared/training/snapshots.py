"""Undo for an optimiser step: what it changes, copied before it."""

import copy
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Trainable parameters and the optimiser's state at one moment."""

    weights: list[torch.Tensor]
    optimizer: dict

    @classmethod
    def take(cls, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> "Snapshot":
        weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        return cls(weights=weights, optimizer=copy.deepcopy(optimizer.state_dict()))

    @torch.no_grad()
    def put_back(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Undo everything since the snapshot, which stays usable."""
        for parameter, saved in zip((p for p in model.parameters() if p.requires_grad), self.weights, strict=True):
            parameter.copy_(saved)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer))

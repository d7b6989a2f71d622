"""What of a training run has to be saved for the rest of it to come out the same, bit for bit.

Parameters and the optimiser's moments are trees by parameter name, whole on one process and as shards where they are
DTensors; frozen parameters are left out, since they come with the policy that training starts from.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from components.shared.training.state_tree import Shard, Stored, read_whole

Tree = dict[str, Any]


def rng_state() -> Tree:
    """The state of every generator that training may draw from."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state: Tree = {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: Tree) -> None:
    """Set every generator to what `rng_state` found."""
    state = read_whole(state)
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def model_state(model: torch.nn.Module) -> Tree:
    """Trainable parameters and persistent buffers by name."""
    return {name: part(tensor) for name, tensor in _saved_tensors(model).items()}


def load_model(model: torch.nn.Module, state: Tree) -> None:
    """Fill the model in place. Raises KeyError where a parameter has no saved value."""
    for name, tensor in _saved_tensors(model).items():
        fill(tensor, state[name])


def optimizer_state(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> Tree:
    """Hyperparameters of the groups, and the moments by parameter name."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        "groups": [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups],
        "state": {
            names[parameter]: {key: part(v) if isinstance(v, torch.Tensor) else v for key, v in values.items()}
            for parameter, values in optimizer.state.items()
        },
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module, state: Tree) -> None:
    """Put groups and moments back, each moment laid out like its parameter, whatever layout it was saved in."""
    parameters = dict(model.named_parameters())
    for group, saved in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update(saved)
    optimizer.state.clear()
    for name, values in state["state"].items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _moment(parameter, value) for key, value in values.items()}


def part(tensor: torch.Tensor) -> torch.Tensor | Shard:
    """What this rank has of a tensor: all of it, or its rows of a DTensor."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    return Shard(values=tensor.to_local().detach().reshape(-1), start=_start(tensor), shape=tuple(tensor.shape))


def fill(target: torch.Tensor, stored: Stored) -> None:
    """Copy what this rank has of a saved tensor into its part of `target`."""
    put(target, taken(target, stored))


def copied(tensor: torch.Tensor) -> torch.Tensor | Shard:
    """What this rank has of a tensor, on the CPU and not changed by what becomes of the tensor."""
    found = part(tensor)
    if isinstance(found, Shard):
        return replace(found, values=found.values.to("cpu", copy=True))
    return found.to("cpu", copy=True)


@torch.no_grad()
def put(target: torch.Tensor, kept: torch.Tensor | Shard) -> None:
    """Copy what `copied` found back into `target`, this rank's part of it."""
    local = target.to_local() if isinstance(target, DTensor) else target
    local.copy_((kept.values if isinstance(kept, Shard) else kept).reshape(local.shape))


def taken(target: torch.Tensor, saved: Stored | torch.Tensor | Shard) -> torch.Tensor | Shard:
    """As `copied`, what this rank has of a saved tensor that is laid out like `target`."""
    if not isinstance(saved, Stored):
        return saved
    if not isinstance(target, DTensor):
        return saved.whole()
    start = _start(target)
    values = saved.flat(start, start + target.to_local().numel())
    return Shard(values=values, start=start, shape=saved.shape)


def _start(tensor: DTensor) -> int:
    """Position of this rank's first value; FSDP2 splits by rows, so its values are one range."""
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if any(offset[1:]) or shape[1:] != tuple(tensor.shape[1:]):
        raise NotImplementedError(f"a parameter split as {tensor.placements}: only rows can be saved")
    return offset[0] * math.prod(tensor.shape[1:])


def _moment(parameter: torch.Tensor, value: Any) -> Any:
    if not isinstance(value, Stored):
        return read_whole(value) if isinstance(value, Mapping) else value
    if value.shape == tuple(parameter.shape):
        moment = torch.zeros_like(parameter)
        fill(moment, value)
        return moment
    return value.whole()


def _saved_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in model.state_dict().items() if name not in parameters}
    return trainable | buffers

"""Spread a model over the world's processes by torch's own means, and make sure that it is.

Some libraries fall back to plain data parallelism where sharding is not to be had, and say nothing; the model then learns,
and does not fit. `assert_spread` looks at the type of what came out.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from components.shared.contracts.environment import STRATEGY, Strategy
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.training.distributed.world import World


def spread(model: nn.Module, strategy: Strategy, world: World, *, offload: bool = False) -> nn.Module:
    """The module to call for `model`, moved to its device: the model itself, or what wraps it.

    In a world of one there is nothing to spread, whatever the strategy. `offload` keeps FSDP's shards and moments in the
    host's memory.

    Raises UsageError where several processes would each train a model of their own.
    """
    model.to(world.device)
    if world.size == 1:
        return model
    if strategy == Strategy.DDP:
        devices = [world.device] if world.device.type == "cuda" else None
        wrapped: nn.Module = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    elif strategy == Strategy.FSDP:
        wrapped = shard(model, offload=offload)
    else:
        raise UsageError(f"{world.size} processes with strategy {strategy}: set {STRATEGY} to ddp, fsdp or deepspeed")
    assert_spread(wrapped, strategy)
    return wrapped


def spread_frozen(model: nn.Module, strategy: Strategy, world: World) -> None:
    """Put a model that only answers where `spread` would: split up where the strategy splits, else whole everywhere."""
    model.to(world.device).requires_grad_(False).eval()
    if world.size > 1 and strategy in (Strategy.FSDP, Strategy.DEEPSPEED):
        assert_spread(shard(model), Strategy.FSDP)


def shard(model: nn.Module, *, offload: bool = False) -> nn.Module:
    """Split the model by rows, each decoder layer a unit that is gathered when it is used.

    The root is split again after its forward pass too, which is not torch's default: what is saved or undone between two
    updates must be the shards.
    """
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    for module in (*decoder_layers(model), model):
        fully_shard(module, offload_policy=policy, reshard_after_forward=True)
    return model


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The blocks that the model's class says must not be split. Raises PipelineError where it says none."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise PipelineError(f"{type(model).__name__} names no decoder layers: train it with {STRATEGY}=ddp")
    return found


def assert_spread(wrapped: nn.Module, strategy: Strategy) -> None:
    """Raises PipelineError unless the module is spread as the strategy says."""
    if strategy == Strategy.DDP:
        right = isinstance(wrapped, DistributedDataParallel)
    elif strategy == Strategy.FSDP:
        right = isinstance(wrapped, FSDPModule) and all(isinstance(p, DTensor) for p in wrapped.parameters())
    else:
        engine: Any = wrapped
        right = type(engine).__name__ == "DeepSpeedEngine" and engine.zero_optimization_stage() == 3
    if not right:
        raise PipelineError(f"strategy {strategy} gave a {type(wrapped).__name__}: the model is not spread as asked")


def local_bytes(model: nn.Module) -> int:
    """Memory of the parameters that this process holds."""
    held = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return sum(p.numel() * p.element_size() for p in held)


def assembled(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors, whole, on the CPU, tied ones shared. A collective: every process must call it."""
    whole: dict[int, torch.Tensor] = {}
    found = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in whole:
            full = tensor.detach()
            whole[id(tensor)] = (full.full_tensor() if isinstance(full, DTensor) else full).cpu()
        found[name] = whole[id(tensor)]
    return found

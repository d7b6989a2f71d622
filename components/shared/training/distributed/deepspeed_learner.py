"""ZeRO-3 by DeepSpeed's engine: parameters, gradients and moments in flat pieces of equal size, one a process.

Saved states are those of the other strategies, the pieces as shards, so that a run may go on under another one; DeepSpeed's
own checkpoints are pickles and are not used.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from transformers import PreTrainedModel

from components.shared.contracts.environment import Strategy
from components.shared.storage.paths import configs_root
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.spreading import assert_spread
from components.shared.training.distributed.world import World
from components.shared.training.state_tree import Shard, Stored

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedLearner:
    """AdamW on a model in flat pieces."""

    def __init__(self, model: PreTrainedModel, world: World, settings: AdamWSettings):
        self.world = world
        self._plain = model
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.model, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=zero3(model, settings), dist_init_required=False
        )
        assert_spread(self.model, Strategy.DEEPSPEED)
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # Adam makes its moments at the first update; a run may have to be undone or restored before that.
        for piece in self._optimizer.fp32_partitioned_groups_flat:
            moments = {key: torch.zeros_like(piece) for key in MOMENTS}
            self._inner.state[piece] = {"step": torch.tensor(0.0), **moments}

    @property
    def _inner(self) -> torch.optim.Optimizer:
        return self._optimizer.optimizer

    def step(self, loss: torch.Tensor, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.model.backward(loss)
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def snapshot(self) -> Callable[[], None]:
        pieces = {name: self._pieces(p) for name, p in self._trained.items()}
        return functools.partial(self._put_back, pieces, self._updates())

    def state(self) -> dict[str, Any]:
        shards = {name: {k: self._shard(p, v) for k, v in self._pieces(p).items()} for name, p in self._trained.items()}
        step = torch.tensor(self._updates())
        return {
            "model": {name: pieces["parameter"] for name, pieces in shards.items()},
            "optimizer": {
                "groups": [{k: v for k, v in g.items() if k != "params"} for g in self._inner.param_groups],
                "state": {name: {"step": step, **{k: pieces[k] for k in MOMENTS}} for name, pieces in shards.items()},
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        moments = state["optimizer"]["state"]
        pieces, updates = {}, 0.0
        for name, parameter in self._trained.items():
            saved = {
                "parameter": state["model"][name],
                **{k: v for k, v in moments.get(name, {}).items() if k in MOMENTS},
            }
            pieces[name] = {key: self._mine(parameter, value) for key, value in saved.items()}
            updates = float(moments[name]["step"].whole()) if name in moments else 0.0
        for group, saved in zip(self._inner.param_groups, state["optimizer"]["groups"], strict=True):
            group.update(saved)
        self._put_back(pieces, updates)

    def weights(self) -> dict[str, torch.Tensor]:
        whole: dict[int, torch.Tensor] = {}
        for parameter in self._plain.parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                whole[id(parameter)] = parameter.detach().cpu().clone()
        tensors = self._plain.state_dict(keep_vars=True)
        return {name: whole.get(id(tensor), tensor).detach().cpu() for name, tensor in tensors.items()}

    def _updates(self) -> float:
        return max((float(state["step"]) for state in self._inner.state.values()), default=0.0)

    def _pieces(self, parameter: Any) -> dict[str, torch.Tensor]:
        """Copies of this process's piece of a parameter and of its moments."""
        moments = {key: safe_get_local_optimizer_state(parameter, key).clone() for key in MOMENTS}
        return {"parameter": safe_get_local_fp32_param(parameter).clone(), **moments}

    def _put_back(self, pieces: Mapping[str, Mapping[str, torch.Tensor]], updates: float) -> None:
        # What is still gathered from the last forward pass would hide the pieces that are set here.
        self._optimizer.parameter_offload.partition_all_parameters()
        for name, values in pieces.items():
            parameter: Any = self._trained[name]
            safe_set_local_fp32_param(parameter, values["parameter"])
            # What the forward pass gathers is a copy, in the model's own type.
            parameter.ds_tensor.data.copy_(values["parameter"])
            for key in MOMENTS:
                if key in values:
                    safe_set_local_optimizer_state(parameter, values[key], key)
        for state in self._inner.state.values():
            state["step"].fill_(updates)

    def _shard(self, parameter: Any, values: torch.Tensor) -> Shard:
        """The piece without the padding that makes the pieces equal."""
        start = values.numel() * self.world.rank
        used = max(0, min(values.numel(), parameter.ds_numel - start))
        return Shard(values=values[:used], start=min(start, parameter.ds_numel), shape=tuple(parameter.ds_shape))

    def _mine(self, parameter: Any, stored: Stored) -> torch.Tensor:
        """This process's piece of a saved tensor, padded."""
        size = parameter.ds_tensor.numel()
        start = min(size * self.world.rank, parameter.ds_numel)
        stop = min(start + size, parameter.ds_numel)
        piece = torch.zeros(size, device=self.world.device)
        if start < stop:
            piece[: stop - start] = stored.flat(start, stop)
        return piece


def zero3(model: PreTrainedModel, settings: AdamWSettings) -> dict[str, Any]:
    """configs/deepspeed/zero3.json, with what a trainer of transformers would fill in for "auto".

    But no parameter stays gathered for being small: an update that is undone would leave it as it was.
    """
    path = configs_root() / "deepspeed" / "zero3.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    hidden = model.config.hidden_size
    config |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": model.dtype == torch.bfloat16},
    }
    config["zero_optimization"] |= {
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "reduce_bucket_size": hidden * hidden,
    }
    return config

"""The processes that train one model together, and the few things that they must agree on.

`join` reads what torchrun put into the environment; a process that nobody launched is a world of one, in which every
collective is the identity.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from components.shared.contracts.errors import UsageError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long a collective waits for the slowest process: one may be loading a large model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One process's place among all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this host."""

    @classmethod
    def of_environment(cls) -> "World":
        """What torchrun's variables say of this process."""
        names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        return cls(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})

    @property
    def main(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def share(self, items: Sequence[T], what: str) -> list[T]:
        """This process's part of `items`. Raises UsageError where there is not one for each process."""
        if len(items) < self.size:
            raise UsageError(f"{what}: {len(items)} for {self.size} processes: give more, or start fewer processes")
        return list(items[self.rank :: self.size])

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, without a gradient."""
        if self.size == 1:
            return tensor.detach()
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, value: int) -> int:
        return self._reduce(value, dist.ReduceOp.MAX)

    def smallest(self, value: int) -> int:
        return self._reduce(value, dist.ReduceOp.MIN)

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            dist.barrier()

    def _reduce(self, value: int, operation: dist.ReduceOp.RedOpType) -> int:
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(tensor, op=operation)
        return int(tensor)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """This process's world, as torchrun's variables say, for the time of the block; nested blocks share one group."""
    world = World.of_environment()
    if world.size == 1 or dist.is_initialized():
        yield world
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield world
    finally:
        dist.destroy_process_group()

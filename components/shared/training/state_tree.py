"""A training state as JSON and tensors: no pickle, and every number back to the last bit.

Dictionaries with string keys, lists, texts, numbers, booleans and none are JSON as they are. What JSON lacks is tagged:

    {"$tensor": KEY, "shape": [..]}   a tensor; its flat values lie under KEY in the safetensors file
    {"$tuple": [..]}                  a tuple
    {"$pairs": [[key, value], ..]}    a dictionary whose keys are not all texts
    {"$float": "inf"}                 a number that JSON cannot write

A tensor may be spread over ranks: each of them then holds a `Shard`, a range of its values in row-major order. Such ranges
fit every way in which parameters are split (FSDP2 by rows, ZeRO-3 by flat pieces), so that any number of ranks can read
what any other number wrote.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import JsonValue


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One rank's part of a tensor."""

    values: torch.Tensor
    """A flat range of the tensor's values in row-major order; may be empty."""
    start: int
    """Position of the first value."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor on disk, read when asked for."""

    shape: tuple[int, ...]
    reader: Callable[[int, int], torch.Tensor]
    """Flat values from `start` up to `stop`."""

    def flat(self, start: int, stop: int) -> torch.Tensor:
        """Values in row-major order, from `start` up to `stop`."""
        return self.reader(start, stop)

    def whole(self) -> torch.Tensor:
        """The whole tensor in its own shape."""
        return self.reader(0, math.prod(self.shape)).reshape(self.shape)


@dataclass(kw_only=True)
class Encoder:
    """Turns trees into JSON and collects copies of their tensors, flat, on the CPU."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    """Where the values of a shard begin, by key; absent for a whole tensor."""
    _seen: dict[tuple, str] = field(default_factory=dict)

    def encode(self, tree: Any, path: str) -> JsonValue:
        """The tree as JSON. Raises TypeError that names the place of a value that cannot be saved."""
        match tree:
            case None | bool() | int() | str():
                return tree
            case float():
                return tree if math.isfinite(tree) else {"$float": repr(tree)}
            case torch.Tensor():
                return self._tensor(tree, path)
            case Shard():
                self._keep(path, tree.values)
                self.starts[path] = tree.start
                return {"$tensor": path, "shape": list(tree.shape)}
            case tuple():
                return {"$tuple": [self.encode(value, f"{path}/{i}") for i, value in enumerate(tree)]}
            case list():
                return [self.encode(value, f"{path}/{i}") for i, value in enumerate(tree)]
            case Mapping():
                return self._mapping(tree, path)
        raise TypeError(f"{path}: a {type(tree).__name__} cannot be saved in a checkpoint: turn it into plain values")

    def _mapping(self, tree: Mapping, path: str) -> JsonValue:
        if all(isinstance(key, str) and not key.startswith("$") for key in tree):
            return {key: self.encode(value, f"{path}/{key}") for key, value in tree.items()}
        pairs = enumerate(tree.items())
        return {"$pairs": [[self.encode(k, f"{path}/{i}k"), self.encode(v, f"{path}/{i}")] for i, (k, v) in pairs]}

    def _tensor(self, tensor: torch.Tensor, path: str) -> JsonValue:
        """Tied parameters, one storage under two names, are kept once."""
        identity = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = self._seen.setdefault(identity, path) if tensor.numel() else path
        if key == path:
            self._keep(path, tensor)
        return {"$tensor": key, "shape": list(tensor.shape)}

    def _keep(self, path: str, tensor: torch.Tensor) -> None:
        self.tensors[path] = tensor.detach().to("cpu", copy=True).reshape(-1)


def decode(tree: Any, stored: Callable[[str, tuple[int, ...]], Stored]) -> Any:
    """The tree that was encoded, each tensor as what `stored` makes of its key and shape."""
    if isinstance(tree, list):
        return [decode(value, stored) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return stored(tree["$tensor"], tuple(tree["shape"]))
    if "$tuple" in tree:
        return tuple(decode(value, stored) for value in tree["$tuple"])
    if "$pairs" in tree:
        return {decode(k, stored): decode(v, stored) for k, v in tree["$pairs"]}
    if "$float" in tree:
        return float(tree["$float"])
    return {key: decode(value, stored) for key, value in tree.items()}


def read_whole(tree: Any) -> Any:
    """The tree with every tensor read from disk, whole."""
    match tree:
        case Stored():
            return tree.whole()
        case tuple() | list():
            return type(tree)(read_whole(value) for value in tree)
        case Mapping():
            return {key: read_whole(value) for key, value in tree.items()}
    return tree


def only_shards(tree: Any) -> Any:
    """The tree's shards in their places; everything else becomes none."""
    match tree:
        case Shard():
            return tree
        case tuple() | list():
            return [only_shards(value) for value in tree]
        case Mapping():
            return {key: only_shards(value) for key, value in tree.items()}
    return None

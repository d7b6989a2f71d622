"""The tensors of a checkpoint, each put together from the flat ranges that the files of its parts hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from components.shared.contracts.errors import CorruptArtifact
from components.shared.training.state_tree import Stored

TENSORS = "tensors.safetensors"


class TensorFiles:
    """Readers of all parts, by rank."""

    def __init__(self, parts: Sequence[Path], starts: Sequence[Mapping[str, int]]):
        """`starts` says, for each part, where the values of its shards begin; whole tensors begin at 0.

        Raises CorruptArtifact for a file that is not safetensors.
        """
        try:
            self._files = [safe_open(part / TENSORS, "pt") for part in parts]
        except SafetensorError as error:
            raise CorruptArtifact(f"{parts[0].parent}: {error}: remove it") from error
        self._keys = [set(file.keys()) for file in self._files]
        self._starts = starts

    def stored(self, key: str, shape: tuple[int, ...], only: int | None = None) -> Stored:
        """The tensor under `key`, of one part's file or of all of them."""
        ranks = [r for r in range(len(self._files)) if key in self._keys[r] and only in (None, r)]
        return Stored(shape=shape, reader=lambda start, stop: self._read(key, ranks, start, stop))

    def _read(self, key: str, ranks: Sequence[int], start: int, stop: int) -> Any:
        result, found = None, 0
        for rank in ranks:
            values = self._files[rank].get_slice(key)
            begin = self._starts[rank].get(key, 0)
            first, last = max(start, begin), min(stop, begin + values.get_shape()[0])
            piece = values[max(0, first - begin) : max(0, last - begin)]
            if result is None:
                result = piece.new_empty(stop - start)
            if first < last:
                result[first - start : last - start] = piece
                found += last - first
        if result is None or found < stop - start:
            raise CorruptArtifact(f"checkpoint has {found} of {stop - start} values of {key}: remove it")
        return result

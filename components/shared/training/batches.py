"""The order in which rows are trained on: a function of seed and position alone, so that it can be resumed anywhere."""

import random
from collections.abc import Iterator
from functools import lru_cache


def batches(rows: int, size: int, seed: int, start: int = 0) -> Iterator[list[int]]:
    """Endless batches of row indices, each epoch a fresh permutation by (seed, epoch), from batch number `start` on.

    A batch may straddle two epochs; no row is left out of any epoch.
    """
    position = start * size
    while True:
        batch: list[int] = []
        while len(batch) < size:
            epoch, offset = divmod(position, rows)
            taken = _permutation(rows, seed, epoch)[offset : offset + size - len(batch)]
            batch += taken
            position += len(taken)
        yield batch


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order

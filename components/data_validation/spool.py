"""Lines on disk with their place in memory: a night of trajectories need not fit."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.data_validation.checks import fingerprint
from components.shared.contracts.records import Rejected

SAMPLES = 5
"""Refused records of each rule that a person can read in the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a line lies in its spool."""

    offset: int
    size: int
    """Bytes without the line's end."""


class Spool:
    """A file of lines that is written first and then read at any place."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = path.open("w+b")
        self._end = 0

    @classmethod
    def reopened(cls, path: Path) -> "Spool":
        """A spool that was written before, to be read."""
        spool = cls.__new__(cls)
        spool.path, spool._file, spool._end = path, path.open("rb"), path.stat().st_size
        return spool

    def places(self) -> Iterator[Place]:
        """Where each line lies."""
        offset = 0
        self._file.seek(0)
        for line in iter(self._file.readline, b""):
            yield Place(offset=offset, size=len(line) - 1)
            offset += len(line)

    def close(self) -> None:
        """Write out what is held back. What was written stays."""
        self._file.close()

    def append(self, line: bytes) -> Place:
        """Keep a line. Only before the first read."""
        place = Place(offset=self._end, size=len(line))
        self._file.write(line + b"\n")
        self._end += len(line) + 1
        return place

    def read(self, place: Place) -> bytes:
        self._file.seek(place.offset)
        return self._file.read(place.size)

    def read_all(self, places: Iterable[Place]) -> Iterator[bytes]:
        """The lines at these places, in their order."""
        for place in places:
            yield self.read(place)


class Refusals:
    """Refused records: whole on disk, counted by rule, with a few at hand to read."""

    def __init__(self, spool: Spool):
        self.spool = spool
        self._places: list[tuple[str, bytes, Place]] = []
        self.rules: Counter[str] = Counter()
        self._samples: dict[str, list[tuple[bytes, Rejected]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, rejected: Rejected) -> None:
        line = rejected.model_dump_json().encode()
        self._note(rejected, line, self.spool.append(line))

    def _note(self, rejected: Rejected, line: bytes, place: Place) -> None:
        key = fingerprint(line)
        self._places.append((rejected.rule, key, place))
        self.rules[rejected.rule] += 1
        samples = self._samples[rejected.rule]
        samples.append((key, rejected))
        samples.sort(key=lambda pair: pair[0])
        del samples[SAMPLES:]

    @classmethod
    def reopened(cls, path: Path) -> "Refusals":
        """Refusals that were written before, to be read."""
        refusals = cls(Spool.reopened(path))
        for place in list(refusals.spool.places()):
            line = refusals.spool.read(place)
            refusals._note(Rejected.model_validate_json(line), line, place)
        return refusals

    def samples(self) -> list[tuple[bytes, Rejected]]:
        """The first few of each rule by fingerprint, whichever order they came in."""
        return [sample for rule in sorted(self._samples) for sample in self._samples[rule]]

    def ordered(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Rule, fingerprint and JSON of all of them, in an order that is a function of their content alone."""
        for rule, key, place in sorted(self._places, key=lambda found: found[:2]):
            yield rule, key, self.spool.read(place)


def merged(refusals: Sequence[Refusals]) -> Iterator[bytes]:
    """All refusals as JSON, in the same order however they were spread."""
    for _, _, line in heapq.merge(*(each.ordered() for each in refusals)):
        yield line

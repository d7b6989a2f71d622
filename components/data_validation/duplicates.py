"""Find records that say the same twice. Of equals the best scored stays, so that the order of reading decides nothing.

A formal language is compared answer by answer to one and the same prompt, since answers to different prompts are alike by
design. Natural text is compared with all there is: MinHash signatures of three-word shingles, cut into bands; texts that
share a band meet in a bucket, where their signatures are compared. Buckets can be worked off in any order and anywhere.

    N  rows        S  entries of a signature
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from components.data_validation.ngrams import BASE, Grams
from components.data_validation.spool import Place
from components.shared.contracts.records import Split

SHINGLE = 3
BANDS, BAND_ROWS = 25, 5
"""Texts of likeness 0.7 share a band with chance 0.99, of 0.8 with 0.9999. Of 0.15, which common phrases give any two texts,
0.2 % do: with bands of four entries it would be 1.6 %, and comparing those would be most of the work on a large night."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What all records together are judged by; the rest of a trajectory stays in its line."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")

    shard: int
    """Which shard's spool has the line."""
    place: Place
    digest: bytes
    """Fingerprint of the line."""
    id: str
    split: Split
    source: str
    """The teacher."""
    kind: str
    """The class: the scenario group's first part."""
    prompt: bytes
    """Fingerprint of the normalised prompt."""
    completion: bytes
    """Fingerprint of the normalised completion."""
    words: str | None = None
    """The normalised completion itself, for a formal language."""
    signature: bytes | None = None
    """MinHash signature, for natural text."""
    score: float
    """The verifier's score."""
    numbers: tuple[float, ...]
    """Measures of the record, as `profile.NUMBERS` names them."""

    @property
    def rank(self) -> tuple[float, bytes]:
        """Who stays: the best scored, then the first by content."""
        return -self.score, self.digest


Gone = tuple[Row, str, str]
"""A row that goes, with rule and reason."""


def split_duplicates(rows: Iterable[Row], near: float, near_natural: float) -> tuple[list[Row], list[Gone]]:
    """The rows that stay, by id, and those that go.

    A row is a duplicate by id, or by normalised prompt and completion. It is a near-duplicate where it answers a prompt
    in words whose likeness to an answer that stays reaches `near`, or where it shares a bucket with a better one whose
    shingles' likeness reaches `near_natural`.
    """
    kept: list[Row] = []
    gone: list[Gone] = []
    ids: set[str] = set()
    texts: set[tuple[bytes, bytes]] = set()
    by_prompt: dict[bytes, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r.rank):
        rivals = by_prompt[row.prompt]
        if row.id in ids or (row.prompt, row.completion) in texts:
            gone.append((row, "duplicate", f"trajectory {row.id} says what another says"))
        elif rival := _rival(row, rivals, near):
            gone.append((row, "near_duplicate", f"likeness to {rival.id} is at least {near:g} for the same prompt"))
        else:
            ids.add(row.id)
            texts.add((row.prompt, row.completion))
            rivals.append(row)
            kept.append(row)
    kept, alike = _split_alike(kept, near_natural)
    return sorted(kept, key=lambda r: r.id), gone + alike


def _rival(row: Row, rivals: Sequence[Row], near: float) -> Row | None:
    if row.words is None:
        return None
    return next((r for r in rivals if r.words is not None and likeness(r.words, row.words) >= near), None)


def likeness(a: str, b: str) -> float:
    """2M/T over words; difflib's heuristic for long texts is off, since it wrecks the measure from 200 words on."""
    return SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()


def signature(grams: Grams) -> bytes:
    """The MinHash of a text's shingles; a text of fewer than three words has one shingle, itself.

    The permutations are datasketch's, applied to all shingles at once as MinHash.update_batch does, without a Python
    object a shingle.
    """
    scale_S1, shift_S1 = _permutations()
    mixed = (grams.runs(min(SHINGLE, grams.words)) >> np.uint64(32)).astype(np.uint32)
    for bits, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # MurmurHash3's finaliser, as scheme affine32 mixes
        mixed = (mixed ^ (mixed >> np.uint32(bits))) * np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return (mixed * scale_S1 + shift_S1).min(axis=1, initial=np.iinfo(np.uint32).max).tobytes()


@functools.cache
def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """datasketch's as columns, imported by the first natural text: it brings scipy along."""
    from datasketch import MinHash

    scale_S, shift_S = MinHash(num_perm=BANDS * BAND_ROWS, scheme="affine32").permutations
    return scale_S.astype(np.uint32)[:, None], shift_S.astype(np.uint32)[:, None]


def _split_alike(ranked: list[Row], near: float) -> tuple[list[Row], list[Gone]]:
    """Near-duplicates among rows with signatures, which come best first."""
    signed = [row for row in ranked if row.signature is not None]
    if not signed:
        return ranked, []
    signatures_NS = np.frombuffer(b"".join(row.signature or b"" for row in signed), dtype=np.uint32)
    signatures_NS = signatures_NS.reshape(len(signed), BANDS * BAND_ROWS)
    better: dict[int, int] = {}
    for bucket in buckets(signatures_NS):
        for worse, leader in followers(signatures_NS, bucket, near):
            better[worse] = min(leader, better.get(worse, leader))
    gone = [
        (signed[worse], "near_duplicate", f"likeness to {signed[leader].id} is at least {near:g}")
        for worse, leader in sorted(better.items())
    ]
    lost = {row.digest for row, _, _ in gone}
    return [row for row in ranked if row.digest not in lost], gone


def buckets(signatures_NS: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """The rows, in order, of each bucket that holds more than one."""
    for band in range(BANDS):
        # A band as one number: two different ones share it with chance 2^-64, and then their signatures are compared anyway.
        keys_N = np.zeros(len(signatures_NS), dtype=np.uint64)
        for entry in range(band * BAND_ROWS, (band + 1) * BAND_ROWS):
            keys_N = (keys_N ^ signatures_NS[:, entry]) * np.uint64(BASE)
            keys_N ^= keys_N >> np.uint64(32)
        order_N = np.argsort(keys_N, kind="stable")
        sorted_N = keys_N[order_N]
        starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
        sizes = np.diff(np.r_[starts, len(order_N)])
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            yield order_N[start : start + size]


def followers(signatures_NS: NDArray[np.uint32], bucket: NDArray[np.int64], near: float) -> Iterator[tuple[int, int]]:
    """Rows of a bucket (best first) that are near a better one of it, each with that one.

    Who is near nobody better leads; every later row is compared with the leaders alone, so a flood of one text costs one
    comparison each.
    """
    rest = bucket
    while len(rest) > 1:
        leader, rest = rest[0], rest[1:]
        alike = (signatures_NS[rest] == signatures_NS[leader]).mean(axis=1) >= near
        yield from ((int(worse), int(leader)) for worse in rest[alike])
        rest = rest[~alike]

"""Find records that say the same twice. Of equals the best scored stays, so that the order of reading decides nothing."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What the comparison needs of a trajectory; the rest stays in its line."""

    line: bytes
    id: str
    scenario: str
    """The scenario's id."""
    prompt: str
    """Normalised prompt."""
    completion: str
    """Normalised completion."""
    score: float
    """The verifier's score."""

    @property
    def rank(self) -> tuple[float, bytes]:
        """Who stays: the best scored, then the first by content."""
        return -self.score, self.line


def split_duplicates(rows: Iterable[Row], near: float) -> tuple[list[Row], list[tuple[Row, str, str]]]:
    """The rows that stay, by id, and those that go, each with rule and reason.

    A row is a duplicate by id or by normalised text; it is a near-duplicate where it answers a prompt in words whose
    likeness to an answer that stays reaches `near`.
    """
    kept: list[Row] = []
    gone: list[tuple[Row, str, str]] = []
    ids: set[str] = set()
    by_prompt: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r.rank):
        rivals = by_prompt[row.prompt]
        if row.id in ids or any(row.completion == rival.completion for rival in rivals):
            gone.append((row, "duplicate", f"trajectory {row.id} says what another says"))
        elif rival := next((r for r in rivals if likeness(r.completion, row.completion) >= near), None):
            gone.append((row, "near_duplicate", f"likeness to {rival.id} is at least {near:g} for the same prompt"))
        else:
            ids.add(row.id)
            rivals.append(row)
            kept.append(row)
    return sorted(kept, key=lambda r: r.id), gone


def likeness(a: str, b: str) -> float:
    """2M/T over words; difflib's heuristic for long texts is off, since it wrecks the measure from 200 words on."""
    return SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()

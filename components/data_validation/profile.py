"""What a night's training data looks like in numbers, and how far it has moved from the last accepted night's."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.shared.contracts.records import Record
from components.shared.monitoring.stability import Histogram, Moved, histogram, moved, names_moved

if TYPE_CHECKING:
    from components.data_validation.duplicates import Row

NUMBERS = ("prompt_tokens", "completion_tokens", "steps", "score", "mean_step_reward", "difficulty")
"""Measures of a trajectory."""
NAMES = ("source", "kind")
"""Fields of a row that are names."""


class Profile(Record):
    """Distributions of a dataset's training trajectories."""

    rows: int = Field(ge=0)
    numbers: dict[str, Histogram] = {}
    names: dict[str, dict[str, int]] = {}


def profile_of(rows: Sequence["Row"], accepted: Profile | None) -> Profile:
    """The profile of these rows: in the accepted night's bins to compare with it, else in their own deciles."""
    old = accepted.numbers if accepted else {}
    numbers = {name: histogram([row.numbers[i] for row in rows], old.get(name)) for i, name in enumerate(NUMBERS)}
    names = {name: dict(sorted(Counter(getattr(row, name) for row in rows).items())) for name in NAMES}
    return Profile(rows=len(rows), numbers=numbers, names=names)


def drift(accepted: Profile, rows: Sequence["Row"]) -> dict[str, Moved]:
    """How far each measure and name that both nights have has moved."""
    new = profile_of(rows, accepted)
    found = {}
    for name, old in accepted.numbers.items():
        if name in new.numbers:
            found[name] = moved(old.counts, new.numbers[name].counts)
    for name, old_names in accepted.names.items():
        found[name] = names_moved(old_names, new.names.get(name, {}))
    return found

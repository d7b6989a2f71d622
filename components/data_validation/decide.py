"""Second phase: all records together. It reads rows, never lines, so that one machine can judge what many examined."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.data_validation.duplicates import Gone, Row, split_duplicates
from components.data_validation.profile import Profile, drift, profile_of
from components.data_validation.spec import DataValidationConfig
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Split
from components.shared.monitoring.stability import Moved

EVERY_OTHER = "*"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What stays, what goes, and what the night's data looks like."""

    kept: tuple[Row, ...]
    """By id."""
    gone: tuple[Gone, ...]
    profile: Profile
    """Of the training trajectories."""
    drift: Mapping[str, Moved]
    """By measure; empty on a first night."""

    def of_split(self, split: Split) -> list[Row]:
        return [row for row in self.kept if row.split == split]


def decide(config: DataValidationConfig, rows: Sequence[Row], accepted: Profile | None = None) -> Decision:
    """The fate of the rows, which may come in any order and from any number of shards.

    `accepted` is the last accepted night's profile; none for a first night.
    """
    kept, gone = split_duplicates(rows, config.near_duplicate, config.natural.near_duplicate)
    kept, over = capped(kept, config.source_caps)
    train = [row for row in kept if row.split == Split.TRAIN]
    return Decision(
        kept=tuple(kept),
        gone=(*gone, *over),
        profile=profile_of(train, None),
        drift=drift(accepted, train) if accepted else {},
    )


def capped(rows: Sequence[Row], caps: Mapping[str, int]) -> tuple[list[Row], list[Gone]]:
    """At most so many rows of each source, the best of them."""
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r.rank):
        by_source[row.source].append(row)
    over = [
        (row, "source_cap", f"source {source!r} has more than source_caps = {cap} trajectories")
        for source, found in sorted(by_source.items())
        if (cap := caps.get(source, caps.get(EVERY_OTHER))) is not None
        for row in found[cap:]
    ]
    lost = {row.id for row, _, _ in over}
    return [row for row in rows if row.id not in lost], over


def check_balance(kinds: Mapping[str, int], most: float) -> None:
    """Raise GateError where one class is nearly all there is, though there are others."""
    if len(kinds) < 2:
        return
    kind, total = max(kinds, key=lambda name: kinds[name]), sum(kinds.values())
    if kinds[kind] > most * total:
        raise GateError(
            f"class {kind!r} has {kinds[kind] / total:.0%} of {total} training trajectories, max_class_share = "
            f"{most:.0%}: generate more of the others"
        )


def check_drift(found: Mapping[str, Moved], warn: float, block: float) -> list[str]:
    """A warning for each measure that moved. Raises GateError where one moved too far."""
    moved = {name: m.index for name, m in found.items() if m.index > max(warn, m.chance)}
    far = {name: index for name, index in moved.items() if index > block}
    if far:
        name = max(far, key=lambda key: far[key])
        raise GateError(
            f"{name} has drifted from the last accepted night: PSI {far[name]:.2f}, drift.block = {block:g}: look into "
            f"its source, or run with --set accepted=none if the change is meant"
        )
    return [f"{name} drifts: PSI {index:.2f}, more than drift.warn = {warn:g}" for name, index in sorted(moved.items())]

"""What the teacher planner learnt, from night to night: a folder or an s3:// prefix, in it one file a night.

A night is known by its configuration, seed included. Its file appears when it begins and says what it knew then, so that a
night which is run again, after a crash or later nights, goes on from where it went on the first time; when it ends the file
says what it knew then, too. States are sums over all lessons so far: the one with the most of them is the newest.
"""

from components.shared.collaboration.planner import PlannerState
from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.records import Record
from components.shared.storage.places import get_text, names, put_text


class Night(Record):
    """One night's file."""

    before: PlannerState | None
    """What it began with; none where it was the first."""
    after: PlannerState | None = None
    """What it ended with; none before that."""


class PlannerMemory:
    """The nights of one model type at a place. Raises CorruptArtifact for a file that is no night."""

    def __init__(self, place: str, model_type: str, night: str):
        self._folder, self._night = f"{place.rstrip('/')}/{model_type}", f"{night}.json"

    def begin(self, first: PlannerState | None = None) -> PlannerState | None:
        """What this night begins with: what it began with before, else the newest there is, else `first`."""
        there = names(self._folder)
        if self._night in there:
            return self._read(self._night).before
        known = [state for name in there if (state := self._read(name).after) is not None]
        before = max(known, key=lambda state: state.lessons, default=first)
        self._write(Night(before=before))
        return before

    def end(self, after: PlannerState) -> None:
        """Keep what this night knew at its end."""
        self._write(self._read(self._night).model_copy(update={"after": after}))

    def _read(self, name: str) -> Night:
        place = f"{self._folder}/{name}"
        try:
            return Night.model_validate_json(get_text(place))
        except ValueError as error:
            raise CorruptArtifact(f"{place} is no night of the planner's: remove it") from error

    def _write(self, night: Night) -> None:
        put_text(f"{self._folder}/{self._night}", night.model_dump_json(indent=1) + "\n")

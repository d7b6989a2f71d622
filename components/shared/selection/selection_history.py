"""Every selection table by its version, and the one file that the router reads: accept, and go back."""

from pathlib import Path

from components.shared.contracts.errors import GateError, UsageError
from components.shared.contracts.selection import SelectionTable
from components.shared.storage.artifacts import write_text


class SelectionHistory:
    """Every table by its version, and the file that the router reads."""

    def __init__(self, folder: Path, current: Path):
        self._folder, self._current = folder, current

    @classmethod
    def beside(cls, current: Path) -> "SelectionHistory":
        """The history whose tables lie in a folder beside the router's file: selection.json and selection/VERSION.json."""
        return cls(current.with_suffix(""), current)

    def tables(self) -> list[SelectionTable]:
        """Every table that was proposed or accepted, by version."""
        found = [SelectionTable.model_validate_json(path.read_bytes()) for path in sorted(self._folder.glob("*.json"))]
        current = self.current()
        return [*found, current] if current and current.version not in {t.version for t in found} else found

    def current(self) -> SelectionTable | None:
        """The table in effect; none before the first."""
        if not self._current.is_file():
            return None
        return SelectionTable.model_validate_json(self._current.read_bytes())

    def propose(self, table: SelectionTable) -> Path:
        """Keep a proposal; nothing routes by it yet."""
        path = self._folder / f"{table.version}.json"
        write_text(path, table.model_dump_json(indent=1) + "\n")
        return path

    def accept(self, version: str, by: str) -> SelectionTable:
        """Put a kept table into effect. Raises GateError where it was made against a table that is no longer in effect."""
        table, current = self._kept(version), self.current()
        if current and table.replaces != current.version and table.version != current.version:
            raise GateError(
                f"selection {version} was made against {table.replaces}, {current.version} is in effect: select again"
            )
        return self._put(table, by)

    def revert(self, by: str) -> SelectionTable:
        """Go back to the table before the one in effect. Raises UsageError where there is none."""
        current = self.current()
        if current is None or current.replaces is None:
            raise UsageError("no selection table before the one in effect: there is nothing to go back to")
        return self._put(self._kept(current.replaces), by)

    def _kept(self, version: str) -> SelectionTable:
        path = self._folder / f"{version}.json"
        if not path.is_file():
            raise UsageError(f"no selection table {version} in {self._folder}: select again")
        return SelectionTable.model_validate_json(path.read_bytes())

    def _put(self, table: SelectionTable, by: str) -> SelectionTable:
        accepted = table.model_copy(update={"accepted_by": by})
        self.propose(accepted)
        write_text(self._current, accepted.model_dump_json(indent=1) + "\n")
        return accepted

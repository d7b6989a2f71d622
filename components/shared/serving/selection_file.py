"""The selection table on disk, and in use: a change takes effect, a fault does not."""

import logging
from pathlib import Path

from pydantic import ValidationError

from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, Calibration, SelectionTable
from components.shared.serving.complexity import EMBEDDING

log = logging.getLogger(__name__)


def load_selection(file: Path) -> SelectionTable:
    """The accepted table in `file`.

    Raises UsageError where it is missing or malformed, GateError where nobody accepted it.
    """
    if not file.is_file():
        raise UsageError(f"no selection table {file}: write one with the model selector")
    try:
        table = SelectionTable.model_validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}: write it again") from error
    if table.accepted_by is None:
        raise GateError(f"{file} is a proposal that nobody has accepted: accept it, or keep the table before it")
    return table


class Selection:
    """The table that routes now. `refresh` follows the file; what cannot be used leaves the one in use."""

    def __init__(self, file: Path, *, embeds: bool = False):
        """`embeds` says that prompts are embedded; without, a table calibrated on embeddings is refused."""
        self._file, self._embeds = file, embeds
        self._stamp = self._look()
        self._use(load_selection(file))

    def refresh(self) -> bool:
        """Take the file's table where it has changed; says whether it did. A fault is logged once a change."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._use(load_selection(self._file))
        except PipelineError as error:
            log.error("%s; table %s stays in use", error, self.table.version)
            raise
        return True

    def benchmarks(self, model_type: str) -> dict[Tier, Benchmark]:
        """What is known of a model type, by tier; empty where nothing is."""
        return self._benchmarks.get(model_type, {})

    def calibration(self, model_type: str) -> Calibration | None:
        return self._calibrations.get(model_type)

    @property
    def model_types(self) -> list[str]:
        return sorted(self._benchmarks)

    def _use(self, table: SelectionTable) -> None:
        for calibration in table.calibrations:
            if not self._embeds and any(name.startswith(EMBEDDING) for name in calibration.weights):
                raise UsageError(
                    f"{self._file}: {calibration.model_type} is calibrated on embeddings: set `embedding` to their encoder"
                )
        self._benchmarks: dict[str, dict[Tier, Benchmark]] = {}
        for benchmark in table.benchmarks:
            self._benchmarks.setdefault(benchmark.model_type, {})[benchmark.tier] = benchmark
        self._calibrations = {c.model_type: c for c in table.calibrations}
        self.table, self.version = table, table.version

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

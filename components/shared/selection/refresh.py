"""A new selection table from what is measured now: measurements and registry in, a proposal out."""

import io
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import content_id
from components.shared.contracts.selection import Measured, SelectionTable
from components.shared.performance.model_registry import open_registry
from components.shared.selection.model_selector import SelectionRules, benchmarks, select
from components.shared.selection.prices import Prices, load_prices
from components.shared.storage.places import fetched, get_text, names, put_text

CURRENT = "current.json"
"""The table in effect, in a folder of tables."""


def refresh(
    registry: str,
    measured: Iterable[Measured],
    before: SelectionTable | None,
    prices: Prices | None = None,
    rules: SelectionRules | None = None,
) -> SelectionTable:
    """The proposal; `before` itself where nothing would change.

    Raises GateError where no policy may serve, UsageError for a policy that is not registered or a machine without a price.
    """
    return select(benchmarks(open_registry(registry), measured, prices or load_prices()), before, rules=rules)


def add_measured(found: Measured, folder: str) -> str:
    """Keep a measurement, whole or not at all, beside those that are there; returns where.

    Each is a file of its own, named after its time: two that measure at once take nothing from each other, and S3, which
    cannot append, is written as a disk is. Raises UsageError where a file is in the folder's place.
    """
    if Path(folder).is_file():
        raise UsageError(f"{folder} is a file: measurements are added to a folder, name another")
    text = found.model_dump_json() + "\n"
    place = f"{folder.rstrip('/')}/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{content_id(text, os.getpid())}.json"
    put_text(place, text)
    return place


def read_measured(places: Iterable[str]) -> list[Measured]:
    """Measurements of files and folders, one JSON line each; the last one of a policy on a tier counts.

    Raises UsageError where there is none.
    """
    latest: dict[tuple[str, str, str], Measured] = {}
    named = list(places)
    for where, number, line in chain.from_iterable(map(_lines, named)):
        try:
            found = Measured.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"]))
            raise CorruptArtifact(f"{where}:{number}: {field}: {fault['msg']}: measure it again") from error
        latest[found.model_type, found.tier, found.policy] = found
    if not latest:
        raise UsageError(f"{', '.join(named) or 'no file'} holds no measurement: measure a policy where it is served")
    return list(latest.values())


def _lines(place: str) -> Iterator[tuple[str, int, str]]:
    """Every line of a file, or of a folder's files by their names, with where it stands."""
    if names(place):
        with fetched(place) as folder:
            files = {f"{place}/{path.name}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
    else:
        files = {place: get_text(place)}
    for name, text in files.items():
        yield from ((name, number, line) for number, line in enumerate(io.StringIO(text), 1))


def read_table(place: str) -> SelectionTable:
    """A selection table. Raises CorruptArtifact for a malformed one."""
    try:
        return SelectionTable.model_validate_json(get_text(place))
    except ValidationError as error:
        raise CorruptArtifact(f"{place} is no selection table: {error.errors()[0]['msg']}") from error


def put_table(table: SelectionTable, folder: str, in_effect: bool = False) -> str:
    """Write FOLDER/VERSION.json, and the table in effect where this one is to be; returns where the first lies."""
    place, text = f"{folder.rstrip('/')}/{table.version}.json", table.model_dump_json(indent=1) + "\n"
    for target in (place, f"{folder.rstrip('/')}/{CURRENT}") if in_effect else (place,):
        put_text(target, text)
    return place

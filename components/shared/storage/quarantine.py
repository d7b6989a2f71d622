"""Read records that may be bad: a line is either a record or a `Rejected` that holds the line itself."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Rejected

R = TypeVar("R", bound=BaseModel)
RANGE_FAULTS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}


def lines(path: Path) -> Iterator[bytes]:
    """The file's lines without their ends. Raises PipelineError where there is no file."""
    if not path.is_file():
        raise PipelineError(f"no file {path}: check the artifact that should hold it")
    with path.open("rb") as f:
        for line in f:
            yield line.rstrip(b"\n")


def sift(line: bytes, shape: type[R], stage: str) -> R | Rejected:
    """The line as a `shape`, or refused by rule `schema` or `range` with the first fault and the raw text."""
    try:
        record = shape.model_validate_json(line)
        _refuse_non_finite(line)
        return record
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "line"
        rule = "range" if fault["type"] in RANGE_FAULTS else "schema"
        return refuse(line, stage, rule, f"{where}: {fault['msg']}")
    except _NotFinite as error:
        return refuse(line, stage, "range", str(error))


def refuse(line: bytes, stage: str, rule: str, reason: str) -> Rejected:
    """The line in quarantine: as the JSON it holds, or as text where that would not give it back."""
    return Rejected(stage=stage, rule=rule, reason=reason, record=_faithful(line))


class _NotFinite(ValueError):
    pass


def _refuse_non_finite(line: bytes) -> None:
    """Free-form JSON fields let NaN, Infinity and 1e999 through, which JSON does not have."""
    json.loads(line, parse_constant=_constant, parse_float=_finite)


def _constant(text: str) -> Any:
    raise _NotFinite(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite(f"{text} is not a finite number")
    return value


def _faithful(line: bytes) -> Any:
    """Duplicate keys and numbers out of range would be lost by parsing; such a line, or a broken one, stays text."""
    try:
        value = json.loads(line.decode(), parse_constant=_constant, parse_float=_finite, object_pairs_hook=_distinct)
        Rejected(stage="", rule="", reason="", record=value).model_dump_json()
        return value
    except (ValueError, RecursionError):
        return line.decode("utf-8", errors="backslashreplace")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)

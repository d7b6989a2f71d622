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
            yield line.removesuffix(b"\n")


def sift(line: bytes, shape: type[R], stage: str) -> R | Rejected:
    """The line as a `shape`, or refused by rule `schema` or `range` with the first fault and the raw text."""
    try:
        record = shape.model_validate_json(line)
        _strict(line)
        return record
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "line"
        return refuse(line, stage, "range" if fault["type"] in RANGE_FAULTS else "schema", f"{where}: {fault['msg']}")
    except _NotFinite as error:
        return refuse(line, stage, "range", str(error))
    except (ValueError, RecursionError) as error:
        return refuse(line, stage, "schema", str(error))


def refuse(line: bytes, stage: str, rule: str, reason: str) -> Rejected:
    """The line in quarantine: as the JSON it holds, or as text where that would not give it back."""
    rejected = Rejected(stage=stage, rule=rule, reason=reason, record=line.decode("utf-8", errors="backslashreplace"))
    try:
        faithful = rejected.model_copy(update={"record": _strict(line)})
        faithful.model_dump_json()
        return faithful
    except (ValueError, RecursionError):
        return rejected


class _NotFinite(ValueError):
    """A number that JSON does not have, or that no float holds."""


def _strict(line: bytes) -> Any:
    """The line's JSON, parsed by the letter: free-form fields would let NaN, 1e999 and duplicate keys through."""
    return json.loads(line.decode(), parse_constant=_constant, parse_float=_finite, object_pairs_hook=_distinct)


def _constant(text: str) -> Any:
    raise _NotFinite(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFinite(f"{text} is not a finite number")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) < len(pairs):
        raise ValueError("an object has a key twice")
    return distinct

"""From a raw line to a record, by the letter: each way in which a line can be wrong has its rule.

Most lines were written by a stage of this pipeline, and then the record writes the very same bytes again: that proves at
once that no key came twice, no number was not finite and nothing was hidden between the fields. Only a line that differs
is parsed a second time, slowly, to say what is wrong with it, if anything is.
"""

import json
import math
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.data_validation.checks import Fault

R = TypeVar("R", bound=BaseModel)
RANGE_FAULTS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)
"""A string, which may break off, or a bracket outside of one."""


class Unreadable(ValueError):
    """A line that is not JSON by the letter. `args` are rule and reason."""


def parse(line: bytes, shape: type[R], depth: int) -> R | Fault:
    """The line as a `shape`, or the first fault found: nesting, encoding, JSON, keys, numbers, fields, ranges."""
    if line.count(b"{") + line.count(b"[") > depth and nesting(line) > depth:
        return "nesting", f"nested deeper than caps.depth = {depth}"
    try:
        record = shape.model_validate_json(line, strict=True)
    except ValidationError as error:
        return unreadable(line) or misshapen(error)
    if record.model_dump_json().encode() == line:
        return record
    return unreadable(line) or record


def nesting(line: bytes) -> int:
    """How deep the brackets go; a scan without recursion, which no input can exhaust."""
    depth = deepest = 0
    for match in STRUCTURE.finditer(line):
        if match[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif match[2]:
            depth -= 1
    return deepest


def unreadable(line: bytes) -> Fault | None:
    """Why a line is not JSON as RFC 8259 has it, with distinct keys and finite numbers; None where it is."""
    try:
        json.loads(line.decode(), parse_constant=_constant, parse_float=_finite, object_pairs_hook=_distinct)
        return None
    except UnicodeDecodeError as error:
        return "encoding", f"not UTF-8 at byte {error.start}"
    except Unreadable as error:
        return error.args[0], error.args[1]
    except (ValueError, RecursionError) as error:
        return "json", str(error)


def misshapen(error: ValidationError) -> Fault:
    """The first fault of a record's fields."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"])) or "line"
    return "range" if fault["type"] in RANGE_FAULTS else "schema", f"{where}: {fault['msg']}"


def _constant(text: str) -> Any:
    raise Unreadable("not_finite", f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable("not_finite", f"{text[:40]} is not a finite number")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise Unreadable("duplicate_key", f"an object has the key {twice[:40]!r} twice")
    return distinct

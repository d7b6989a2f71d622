"""Typed configuration from what people write, with the nearest name for a key that is not one."""

from collections.abc import Mapping
from typing import TypeVar, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from components.shared.contracts.errors import UsageError, unknown

C = TypeVar("C", bound=BaseModel)


def parse_config(shape: type[C], values: Mapping[str, JsonValue], where: str) -> C:
    """`values` as a `shape`. Raises UsageError that names `where`, the key and its value."""
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        path = [str(part) for part in fault["loc"]]
        if fault["type"] == "extra_forbidden":
            raise unknown(f"key of {'.'.join([where, *path[:-1]])}", path[-1], _fields(shape, path[:-1])) from error
        raise UsageError(f"{where}.{'.'.join(path)} = {fault['input']!r}: {fault['msg']}") from error


def _fields(shape: type[BaseModel], path: list[str]) -> list[str]:
    for name in path:
        annotation = shape.model_fields[name].annotation
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        models = [kind for kind in inner if issubclass(kind, BaseModel)]
        if not models:
            return []
        shape = models[0]
    return list(shape.model_fields)

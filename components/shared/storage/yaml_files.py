"""YAML as people write it: values only, and a fault says where it is."""

from pathlib import Path
from typing import Any

import yaml

from components.shared.contracts.errors import UsageError


def read_yaml(path: Path) -> Any:
    """A YAML file's value. Raises UsageError that names the file, and for a fault its line and column."""
    if not path.is_file():
        raise UsageError(f"no file {path}: create it")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UsageError(f"{path}{where}: {error.problem}: mend the YAML there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}: save it as UTF-8 text") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; an empty file is an empty one. Raises UsageError for anything else."""
    value = read_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{path}:1: a {type(value).__name__}, not a mapping: write `key: value` lines")
    return value


class _UniqueKeys(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, where a key written twice is a fault: YAML's own lets the last one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)

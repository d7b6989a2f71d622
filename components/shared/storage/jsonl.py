"""Records as JSON lines, one a line, in the order given."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from components.shared.contracts.errors import PipelineError

R = TypeVar("R", bound=BaseModel)


def write_jsonl(path: Path, records: Iterable[BaseModel]) -> int:
    """Write the records and return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as f:
        for record in records:
            f.write(record.model_dump_json() + "\n")
            count += 1
    return count


def read_jsonl(path: Path, shape: type[R]) -> Iterator[R]:
    """The file's records; the first malformed line ends it with an error that names file, line and fault."""
    if not path.is_file():
        raise PipelineError(f"no file {path}: check the artifact that should hold it")
    with path.open(encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                yield shape.model_validate_json(line)
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(map(str, fault["loc"]))
                raise PipelineError(f"{path}:{number}: {where}: {fault['msg']}: mend or remove the line") from error

"""Rows of a file of any size, one at a time: JSON lines, plain or in gzip or zstd, or Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.contracts.errors import PipelineError, UsageError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
CHUNK = 2**20
LONGEST_LINE = 16 * 2**20
"""Bytes of a line that is still read; a longer one is no record."""
BATCH = 1024


def rows(path: Path) -> Iterator[bytes]:
    """The rows as JSON, one a line of bytes. Blank lines are passed over.

    Raises UsageError where there is no such file, and PipelineError where it is cut off, of another format, or has a line of
    more than LONGEST_LINE bytes.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}: check the path")
    try:
        yield from _parquet(path) if path.suffix == ".parquet" else _lines(path)
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read to its end ({error}): get the file again") from error


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    with pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix)) as stream:
        while chunk := stream.read(CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line for line in whole if line.strip())
            if len(rest) > LONGEST_LINE:
                raise PipelineError(f"{path}: a line has more than {LONGEST_LINE} bytes: one record a line is wanted")
    if rest.strip():
        yield rest


def _parquet(path: Path) -> Iterator[bytes]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                yield json.dumps(row, ensure_ascii=False, default=str).encode()

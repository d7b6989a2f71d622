"""The raw lines of an input, before anything parses them: size, compression and truncation are seen here.

An input is a file or several shards of one, plain or compressed: NAME.jsonl, NAME.jsonl.gz, NAME.jsonl.zst, NAME.parquet
with a column `record` of JSON text, and NAME-*.jsonl and so on for shards. A fault of a whole file is one `Rejected` for
what could not be read, beside the lines that could: nothing goes missing without a record that says so.
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from components.data_validation.spec import SPEC, Caps
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Rejected
from components.shared.storage.artifacts import file_digest

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
HEAD = 1000
"""Bytes of an overlong line that the quarantine shows."""
CHUNK = 1 << 16
"""Bytes decompressed at a time; the ratio is not judged on less."""


def shards(folder: Path, name: str) -> list[Path]:
    """The files of an input in order. Raises PipelineError where there is none."""
    found = sorted(p for suffix in SUFFIXES for p in (*folder.glob(name + suffix), *folder.glob(f"{name}-*{suffix}")))
    if not found:
        raise PipelineError(f"no file {folder / name}.jsonl: check the artifact that should hold it")
    return found


def raw_lines(files: list[Path], caps: Caps) -> Iterator[bytes | Rejected]:
    """Every line without its end, and a refusal for each that is not to be parsed.

    Raises GateError past `caps.lines`: an input of that size is a mistake or an attack, and no part of it is to be used.
    """
    count = 0
    for path in files:
        for line in _parquet(path, caps) if path.suffix == ".parquet" else _json_lines(path, caps):
            count += 1
            if count > caps.lines:
                raise GateError(
                    f"more than {caps.lines} records, the cap caps.lines: split the input, or raise the cap"
                )
            yield line


def counted(files: list[Path]) -> int | None:
    """How many lines the files have; None where that takes decompressing one."""
    if any(path.suffix != ".jsonl" for path in files):
        return None
    total = 0
    for path in files:
        with path.open("rb") as f:
            while chunk := f.read(1 << 20):
                total += chunk.count(b"\n")
    return total


def _json_lines(path: Path, caps: Caps) -> Iterator[bytes | Rejected]:
    try:
        with _opened(path, caps) as f:
            yield from _split(f, caps.line_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield _file_fault(path, "truncated", f"cannot be decompressed to its end: {error}")
    except _Bomb as error:
        yield _file_fault(path, "ratio", str(error))


def _split(f: IO[bytes], limit: int) -> Iterator[bytes | Rejected]:
    """Lines of at most `limit` bytes; of a longer one only its beginning is ever in memory."""
    while line := f.readline(limit + 1):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) > limit:
            yield _overlong(line, f, limit)
        elif _complete(line):
            yield line
        else:
            text = line.decode("utf-8", errors="backslashreplace")
            yield _refused("truncated", "the last line breaks off: its writer was cut short", text)


def _overlong(line: bytes, f: IO[bytes], limit: int) -> Rejected:
    digest, size, head = hashlib.sha256(line), len(line), line[:HEAD]
    while not line.endswith(b"\n") and (line := f.readline(limit)):
        digest.update(line)
        size += len(line)
    reason = f"{size} bytes, more than caps.line_bytes = {limit}; SHA-256 {digest.hexdigest()}"
    return _refused("line_bytes", reason, head.decode("utf-8", errors="backslashreplace"))


def _complete(line: bytes) -> bool:
    try:
        json.loads(line)
        return True
    except (ValueError, RecursionError):
        return False


def _opened(path: Path, caps: Caps) -> IO[bytes]:
    raw = path.open("rb")
    if path.suffix == ".gz":
        return io.BufferedReader(_Metered(gzip.GzipFile(fileobj=raw), raw, caps.ratio), CHUNK)
    if path.suffix == ".zst":
        return io.BufferedReader(_Metered(_Zstandard(raw), raw, caps.ratio), CHUNK)
    return raw


class _Zstandard:
    """Reads zstd frames. The library's own stream reader takes a frame that breaks off for the end of the file."""

    STEP = 512
    """Compressed bytes at a time: one block of four bytes may become 128 KiB, so this bounds what is in memory."""

    def __init__(self, raw: IO[bytes]):
        import zstandard

        # A frame may ask for a window of gigabytes; 128 MiB is what the command line tool allows by default.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._error = zstandard.ZstdError
        self._raw = raw
        self._frame: Any = None
        self._rest = b""
        self._held = io.BytesIO()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end. Raises EOFError or zlib.error where a frame is not whole."""
        while not (data := self._held.read(size)):
            chunk = self._rest or self._raw.read(self.STEP)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the last frame breaks off")
                return b""
            self._advance(chunk)
        return data

    def _advance(self, chunk: bytes) -> None:
        self._frame = self._frame or self._decompressor.decompressobj()
        try:
            self._held = io.BytesIO(self._frame.decompress(chunk))
        except self._error as error:
            raise zlib.error(str(error)) from error
        self._rest = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None


class _Bomb(Exception):
    """A compressed file that grows without bound."""


class _Metered(io.RawIOBase):
    """A decompressor that gives up where it makes too much of too little, and where its input breaks off."""

    def __init__(self, inner: Any, raw: IO[bytes], ratio: float):
        self._inner, self._raw, self._ratio = inner, raw, ratio
        self._written = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._written += len(data)
        # Decompressors read ahead, so a small file counts as one chunk.
        if self._written > self._ratio * max(self._raw.tell(), CHUNK):
            raise _Bomb(f"more than {self._ratio:g} bytes for each compressed one, the cap caps.ratio")
        buffer[: len(data)] = data
        return len(data)


def _parquet(path: Path, caps: Caps) -> Iterator[bytes | Rejected]:
    """The column `record`. A broken footer, page or column is the file's fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            inflated = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
            if inflated > caps.ratio * max(path.stat().st_size, CHUNK):
                yield _file_fault(path, "ratio", f"{inflated} bytes inflated, past caps.ratio = {caps.ratio:g}")
                return
            if "record" not in file.schema_arrow.names:
                yield _file_fault(path, "columns", f"no column `record` of JSON text: {file.schema_arrow.names}")
                return
            for batch in file.iter_batches(batch_size=256, columns=["record"]):
                for value in batch.column(0).to_pylist():
                    yield _cell(value, caps.line_bytes)
    except (pa.ArrowException, OSError) as error:
        yield _file_fault(path, "truncated", f"cannot be read to its end: {' '.join(str(error).split())}")


def _cell(value: Any, limit: int) -> bytes | Rejected:
    if not isinstance(value, str | bytes):
        return _refused("columns", "the cell holds no text", str(value))
    line = value.encode() if isinstance(value, str) else value
    return line if len(line) <= limit else _overlong(line, io.BytesIO(), limit)


def _file_fault(path: Path, rule: str, reason: str) -> Rejected:
    """What could not be read of a file, by the file's digest: it stays in the artifact it came in."""
    record = {"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}
    return _refused(rule, f"{path.name}: {reason}", record)


def _refused(rule: str, reason: str, record: Any) -> Rejected:
    return Rejected(stage=SPEC.name, rule=rule, reason=reason, record=record)

"""Every request to a teacher and its answer, by content: what was answered once is never asked again.

One SQLite file. A row appears before its request is sent and is filled before its answer is used, both on disk, so a crash
at any moment loses at most the answers on their way, and those are known to have been asked for. The key is the SHA-256 of
endpoint, model, messages and parameters: neither code nor paths nor API keys enter, so the record outlives all three.

Writes that arrive together share one transaction; the event loop never waits for the disk.
"""

import asyncio
import hashlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.contracts.environment import CHECKPOINTS, REQUEST_CACHE
from components.shared.contracts.errors import PipelineError
from components.shared.storage.artifacts import canonical_json

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    sends INTEGER NOT NULL,
    status INTEGER,
    body TEXT
) WITHOUT ROWID
"""
SENT = (
    "INSERT INTO requests (key, endpoint, model, sends) VALUES (?, ?, ?, 1) "
    "ON CONFLICT (key) DO UPDATE SET sends = sends + 1"
)
ANSWERED = "UPDATE requests SET status = ?, body = ? WHERE key = ? AND status IS NULL"
PATIENCE_S = 30
"""How long a write waits for another process's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A final answer, good or a refusal."""

    status: int
    """HTTP status."""
    body: str
    """The response's body, or the refusal's message."""
    sends: int
    """Times that a run sent the request: above 1 where a run ended between sending and recording."""


def request_key(endpoint: str, request: str) -> str:
    """The identity of a request, which is given as canonical JSON, parameters and messages included."""
    return hashlib.sha256(f'{{"endpoint":{canonical_json(endpoint)},"request":{request}}}'.encode()).hexdigest()


def default_path() -> Path:
    """Where the record lies: SRL_RLVR_REQUEST_CACHE, else with the job's checkpoints, else in the user's cache."""
    if REQUEST_CACHE in os.environ:
        return Path(os.environ[REQUEST_CACHE])
    if CHECKPOINTS in os.environ:
        return Path(os.environ[CHECKPOINTS]) / "requests.sqlite"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "srl-rlvr" / "requests.sqlite"


class RequestCache:
    """The record at `path`, or one in memory. Several processes may share a file."""

    def __init__(self, path: Path | None = None):
        self.path = path
        self._pending: list[tuple[str, tuple[Any, ...], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.execute(SCHEMA)
            self._reader = self._writer if path is None else self._connect()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def get(self, key: str) -> Recorded | None:
        """The answer to a request, if there is one."""
        try:
            row = self._reader.execute("SELECT status, body, sends FROM requests WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._fault(error) from error
        return None if row is None or row[0] is None else Recorded(status=row[0], body=row[1], sends=row[2])

    def sends(self, key: str) -> int:
        """Times that a request was sent so far."""
        row = self._reader.execute("SELECT sends FROM requests WHERE key = ?", (key,)).fetchone()
        return row[0] if row else 0

    def answered(self) -> set[str]:
        """Keys of all requests with an answer."""
        return {key for (key,) in self._reader.execute("SELECT key FROM requests WHERE status IS NOT NULL")}

    async def sent(self, key: str, endpoint: str, model: str) -> None:
        """Record that a request is about to be sent; returns once that is on disk."""
        await self._write(SENT, (key, endpoint, model))

    async def record(self, key: str, status: int, body: str) -> Recorded:
        """Record an answer; returns, once it is on disk, the answer that counts: the first one recorded."""
        await self._write(ANSWERED, (status, body, key))
        recorded = self.get(key)
        if recorded is None:
            raise PipelineError(f"{self.path}: request {key[:12]} was removed while it was in flight: run again")
        return recorded

    async def close(self) -> None:
        """Finish what is being written."""
        if self._flushing is not None:
            await self._flushing
        self._reader.close()
        self._writer.close()

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._pending.append((statement, values, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            fault = None
            try:
                await asyncio.to_thread(self._commit, [(statement, values) for statement, values, _ in batch])
            except sqlite3.Error as error:
                fault = self._fault(error)
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(fault) if fault else done.set_result(None)
        self._flushing = None

    def _commit(self, writes: list[tuple[str, tuple[Any, ...]]]) -> None:
        with self._writer:
            for statement, values in writes:
                self._writer.execute(statement, values)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path or ":memory:", timeout=PATIENCE_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _fault(self, error: sqlite3.Error) -> PipelineError:
        return PipelineError(f"{self.path}: {error}: mend or remove the file, or set {REQUEST_CACHE} to another")

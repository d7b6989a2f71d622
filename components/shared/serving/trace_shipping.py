"""Complete files of traces go to the prefix that the night's collection reads, each of them once.

    STATE/traces/traces-000007.jsonl               complete: nobody appends to it any more
    STATE/outbox/DAY/traces-000007-DIGEST.jsonl    waits, however long S3 is away
    PLACE/DAY/HOST/traces-000007-DIGEST.jsonl      there; the file is gone from this machine

DAY is the day on which a file is sent, in UTC: a night reads the day before it, and no other. A key is settled on the disk
before it is first tried, and holds the content's digest, so trying again changes nothing. A file whose day is over may have
arrived, with the answer lost: only where it is not listed there is it sent today instead.
"""

import logging
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from components.shared.serving.traces import FILES, TraceWriter
from components.shared.storage.artifacts import file_digest
from components.shared.storage.places import names, put_file

log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class TraceShipper:
    """Sends what a writer has completed, in a thread of its own: no request waits for S3."""

    def __init__(
        self,
        writer: TraceWriter,
        outbox: Path,
        place: str,
        *,
        host: str | None = None,
        now: Callable[[], datetime] = _now,
    ):
        self._writer, self._outbox, self._place, self._now = writer, outbox, place.rstrip("/"), now
        self._host = host or socket.gethostname()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def ship(self) -> int:
        """Send every complete file and all that waits, oldest first; returns how many arrived.

        Raises PipelineError at the first that cannot be sent: it and those behind it wait.
        """
        for file in self._writer.complete():
            self._settle(file, f"{file.stem}-{file_digest(file)[:16]}.jsonl")
        waiting = sorted(self._outbox.glob(f"*/{FILES}"))
        for file in waiting:
            self._send(file)
        return len(waiting)

    def start(self, every_s: float, failed: Callable[[], None]) -> None:
        """Ship every so many seconds until `stop`; `failed` is called each time that S3 does not take what waits."""
        self._thread = threading.Thread(target=self._run, args=(every_s, failed), name="traces", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Ship once more, within so many seconds; what has not gone by then waits for the next start."""
        self._stopped.set()
        if self._thread:
            self._thread.join(grace_s)

    def _run(self, every_s: float, failed: Callable[[], None]) -> None:
        while True:
            last = self._stopped.wait(every_s)
            try:
                self.ship()
            except Exception as error:  # whatever fails here, serving goes on and the next pass tries again
                log.warning("traces wait in %s: %s", self._outbox, error)
                failed()
            if last:
                return

    @property
    def _today(self) -> str:
        return self._now().date().isoformat()

    def _settle(self, file: Path, name: str) -> Path:
        """The file as it waits to be sent today."""
        folder = self._outbox / self._today
        folder.mkdir(parents=True, exist_ok=True)
        return file.rename(folder / name)

    def _send(self, file: Path) -> None:
        prefix = f"{self._place}/{file.parent.name}/{self._host}"
        if file.parent.name != self._today:
            if file.name in names(prefix):
                file.unlink()
                return
            file = self._settle(file, file.name)
        put_file(f"{self._place}/{file.parent.name}/{self._host}/{file.name}", file)
        file.unlink()

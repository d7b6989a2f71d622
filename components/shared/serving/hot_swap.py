"""Replace what answers under an alias, with no request lost and no answer mixed.

    load the new adapter -> warm it -> compare its canary answers with the recorded ones -> flip the alias -> drain and
    unload the old one

A request leases the alias's adapter for its whole life, so it ends on the adapter it began on. Until the flip nothing
that serves is touched: at any failure the new adapter is taken out and the old one keeps serving.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from components.shared.contracts.errors import CorruptArtifact, GateError, PipelineError, unknown
from components.shared.contracts.records import Record
from components.shared.serving.adapters import Adapter
from components.shared.serving.canary_prompts import CanaryPrompt
from components.shared.serving.srl_model_adapter import ModelServer, ask
from components.shared.storage.artifacts import write_text

log = logging.getLogger(__name__)


class SwapReport(Record):
    """What one swap did and how long each part took."""

    alias: str
    old: str | None
    new: str
    load_ms: float
    """The server's own loading."""
    swap_ms: float
    """Everything else until the alias pointed to the new adapter: warming, canary prompts and the flip."""
    drain_ms: float
    """From the flip until the last request of the old adapter was answered and it was unloaded."""
    unloaded: bool
    """Whether the old adapter is out; where it is still draining, or its server refused, the next swap tries again."""


class Aliases:
    """Which adapter answers under which alias, and how many requests each adapter is answering."""

    def __init__(self, file: Path | None = None):
        """`file` keeps the table across restarts; none keeps it in memory."""
        self._file = file
        self._targets = _read(file)
        self._leases: Counter[str] = Counter()
        self._idle: dict[str, asyncio.Event] = {}

    def target(self, alias: str) -> str | None:
        """The adapter behind an alias."""
        return self._targets.get(alias)

    @property
    def table(self) -> dict[str, str]:
        return dict(self._targets)

    @contextlib.contextmanager
    def lease(self, alias: str) -> Iterator[str]:
        """The adapter behind `alias`, kept loaded until the block ends. Raises UsageError for an unknown alias."""
        if alias not in self._targets:
            raise unknown("alias", alias, self._targets)
        name = self._targets[alias]
        self._leases[name] += 1
        try:
            yield name
        finally:
            self._leases[name] -= 1
            if not self._leases[name]:
                del self._leases[name]
                if name in self._idle:
                    self._idle.pop(name).set()

    async def flip(self, alias: str, name: str) -> None:
        """Point `alias` to `name`, on disk first: a restart serves what was served."""
        await self._commit({**self._targets, alias: name})

    async def drop(self, alias: str) -> None:
        """Forget an alias."""
        await self._commit({other: name for other, name in self._targets.items() if other != alias})

    async def drained(self, name: str, timeout_s: float) -> bool:
        """Wait until no request is on `name`; False where the time is up first."""
        if not self._leases[name]:
            return True
        idle = self._idle.setdefault(name, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(idle.wait(), timeout_s)
        return not self._leases[name]

    async def _commit(self, targets: dict[str, str]) -> None:
        """One change at a time: HotSwap's lock sees to it."""
        if self._file is not None:
            # A flush to disk can take a second on a busy machine, which requests must not wait.
            await asyncio.to_thread(write_text, self._file, json.dumps(targets, sort_keys=True) + "\n")
        self._targets = targets


class HotSwap:
    """Swaps adapters at one server, one at a time."""

    def __init__(
        self, server: ModelServer, aliases: Aliases, *, min_agreement: float = 1.0, drain_timeout_s: float = 60
    ):
        """`min_agreement` is the share of canary prompts whose answer must be the recorded one, letter by letter.

        Below 1 where the server computes in another precision than the training did.
        """
        self._server = server
        self.aliases = aliases
        self._min_agreement = min_agreement
        self._drain_timeout_s = drain_timeout_s
        self._lock = asyncio.Lock()
        self._retired: set[str] = set()

    async def swap(self, alias: str, adapter: Adapter, prompts: Sequence[CanaryPrompt]) -> SwapReport:
        """Make `adapter` answer under `alias`.

        Raises Unavailable where the server fails, GateError where the canary answers differ or there are none; in each
        case what served before serves on, and the new adapter is unloaded.
        """
        if not prompts:
            raise GateError(f"{adapter.name} has no canary prompts: record some from the policy that was accepted")
        async with self._lock:
            old = self.aliases.target(alias)
            self._retired.discard(adapter.name)
            started = time.perf_counter()
            async with self._discarded_on_failure(adapter.name):
                await self._server.load(adapter)
                loaded = time.perf_counter()
                await self._server.generate(adapter.name, ask(prompts[0].prompt, 1))
                await self._compare(adapter.name, prompts)
                await self.aliases.flip(alias, adapter.name)
            flipped = time.perf_counter()
            unloaded = await self._retire(old) if old not in (None, adapter.name) else True
            return SwapReport(
                alias=alias,
                old=old,
                new=adapter.name,
                load_ms=1000 * (loaded - started),
                swap_ms=1000 * (flipped - loaded),
                drain_ms=1000 * (time.perf_counter() - flipped),
                unloaded=unloaded,
            )

    async def withdraw(self, alias: str) -> bool:
        """Take an alias away and its adapter out; says whether it is unloaded. For a challenger that lost."""
        async with self._lock:
            old = self.aliases.target(alias)
            await self.aliases.drop(alias)
            return await self._retire(old) if old else True

    async def restore(self, adapters: Sequence[Adapter]) -> None:
        """Load again what the aliases point to: a server that restarted has forgotten its adapters."""
        async with self._lock:
            resident = await self._server.list_adapters()
            for adapter in adapters:
                if adapter.name in self.aliases.table.values() and adapter.name not in resident:
                    await self._server.load(adapter)

    async def _compare(self, name: str, prompts: Sequence[CanaryPrompt]) -> None:
        answers = await asyncio.gather(*(self._server.generate(name, ask(p.prompt, p.max_tokens)) for p in prompts))
        wrong = [
            (prompt, answer.text)
            for prompt, answer in zip(prompts, answers, strict=True)
            if answer.text.strip() != prompt.completion.strip() or answer.model != name
        ]
        agreement = 1 - len(wrong) / len(prompts)
        if agreement < self._min_agreement:
            prompt, text = wrong[0]
            raise GateError(
                f"{name} gives the recorded answer to {agreement:.0%} of {len(prompts)} canary prompts, "
                f"{self._min_agreement:.0%} wanted; to {prompt.prompt[:60]!r} it says {text[:60]!r}, recorded is "
                f"{prompt.completion[:60]!r}: check base and precision of the server"
            )

    @contextlib.asynccontextmanager
    async def _discarded_on_failure(self, name: str) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            if name not in self.aliases.table.values():
                self._retired.add(name)
                await self._unload_retired()
                # A load that came too late for its caller may still finish on the server: the next swap looks again.
                self._retired.add(name)
            raise

    async def _retire(self, old: str) -> bool:
        """Drain and unload; an adapter that another alias still points to stays."""
        if old in self.aliases.table.values():
            return True
        self._retired.add(old)
        await self.aliases.drained(old, self._drain_timeout_s)
        return await self._unload_retired(old)

    async def _unload_retired(self, wanted: str | None = None) -> bool:
        """Unload whatever was retired and is idle; says whether `wanted` is out. A refusal costs memory, no answers."""
        for name in sorted(self._retired):
            if not await self.aliases.drained(name, 0):
                log.warning("%s still answers after %.0f s: left loaded", name, self._drain_timeout_s)
                continue
            try:
                await self._server.unload(name)
                self._retired.discard(name)
            except PipelineError as error:
                log.warning("%s could not be unloaded and will be tried at the next swap: %s", name, error)
        return wanted not in self._retired


def _read(file: Path | None) -> dict[str, str]:
    if file is None or not file.is_file():
        return {}
    try:
        return {str(alias): str(name) for alias, name in json.loads(file.read_bytes()).items()}
    except (ValueError, AttributeError) as error:
        raise CorruptArtifact(
            f"{file} is no table of aliases ({error}): restore it, or remove it and swap again"
        ) from error

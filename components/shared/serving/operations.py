"""What changes while the router serves: adapters swapped in, rollouts moved, a restarted server given its adapters back."""

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts.errors import PipelineError, UsageError, unknown
from components.shared.contracts.records import Record, Tier
from components.shared.serving.accounting import Accounts
from components.shared.serving.adapters import Adapter, AdapterStore
from components.shared.serving.canary import Canary, CanaryConfig, CanaryState, Status, start
from components.shared.serving.canary_prompts import CanaryPrompt, read_canaries
from components.shared.serving.dispatch import CHALLENGER, Backend
from components.shared.serving.hot_swap import HotSwap, SwapReport
from components.shared.serving.router_config import SwapConfig
from components.shared.storage.artifacts import write_text

log = logging.getLogger(__name__)


ENDED = "rollouts-ended.jsonl"


class Rollout(Record):
    """A rollout as it is kept: what it needs to end well after a restart."""

    state: CanaryState
    adapter: str
    prompts: tuple[CanaryPrompt, ...]


class Ended(Record):
    """A rollout that came to its end, with all that it was decided by: a line of `ENDED`."""

    at: float
    """Seconds since 1970."""
    alias: str
    adapter: str
    state: CanaryState
    """Still running where a person withdrew it."""


@dataclass(kw_only=True, slots=True)
class _Running:
    canary: Canary
    adapter: str
    prompts: tuple[CanaryPrompt, ...]


class Operations:
    """Swaps and rollouts of one router."""

    def __init__(
        self,
        accounts: Accounts,
        backends: Mapping[Tier, Backend],
        folder: Path,
        canary: CanaryConfig,
        swap: SwapConfig,
        clock: Callable[[], float] = time.time,
    ):
        """`folder` keeps adapters and rollouts across restarts; `clock` gives seconds that go on across them."""
        self._accounts, self._backends, self._canary, self._clock = accounts, backends, canary, clock
        self._store = AdapterStore(folder / "adapters")
        self._file = folder / "rollouts.json"
        self._swaps = {
            tier: HotSwap(
                backend.server,
                backend.aliases,
                min_agreement=swap.min_agreement,
                drain_timeout_s=swap.drain_timeout_s,
            )
            for tier, backend in backends.items()
        }
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By alias: one change at a time."""
        self._saving = asyncio.Lock()
        self._running: dict[str, _Running] = {}
        for alias, rollout in _read(self._file).items():
            canary_now = Canary(canary, rollout.state)
            self._running[alias] = _Running(canary=canary_now, adapter=rollout.adapter, prompts=rollout.prompts)
            accounts.rollouts[alias] = canary_now

    async def deploy(
        self, model_type: str, tier: Tier, policy: Path, *, canaries: Path | None = None, rollout: bool
    ) -> SwapReport:
        """Let the sealed folder `policy` answer for a model type on a tier: at once, or by a rollout.

        `canaries` is where the canary prompts are, by default the policy's folder. Raises what HotSwap.swap and
        AdapterStore.add raise.
        """
        if tier not in self._swaps:
            raise unknown("tier", tier, self._swaps)
        alias, base = f"{model_type}@{tier}", self._backends[tier].server.base
        # Hashing and copying weights takes seconds, which requests must not wait.
        adapter = await asyncio.to_thread(self._store.add, policy, model_type, base)
        recorded = read_canaries(canaries or policy)
        async with self._locks[alias]:
            if alias in self._running:
                raise UsageError(f"{alias} has a rollout of {self._running[alias].adapter}: withdraw it first")
            if not rollout:
                return await self._swaps[tier].swap(alias, adapter, recorded)
            return await self._roll_out(alias, tier, adapter, recorded)

    async def _roll_out(
        self, alias: str, tier: Tier, adapter: Adapter, prompts: tuple[CanaryPrompt, ...]
    ) -> SwapReport:
        if self._backends[tier].aliases.target(alias) == adapter.name:
            raise UsageError(f"{alias} is served by {adapter.name} already: nothing to roll out")
        report = await self._swaps[tier].swap(alias + CHALLENGER, adapter, prompts)
        canary = start(self._canary, f"{alias}/{adapter.name}", self._clock())
        self._running[alias] = _Running(canary=canary, adapter=adapter.name, prompts=prompts)
        self._accounts.rollouts[alias] = canary
        await self._save()
        return report

    async def withdraw(self, alias: str) -> None:
        """End a rollout, its challenger out. Raises UsageError where there is none."""
        async with self._locks[alias]:
            if alias not in self._running:
                raise unknown("rollout", alias, self._running)
            await self._end(alias)

    async def tick(self) -> None:
        """Decide every rollout and give restarted servers their adapters back. One that fails waits for the next tick."""
        for alias in list(self._running):
            try:
                async with self._locks[alias]:
                    await self._decide(alias)
            except PipelineError as error:
                log.error("rollout of %s: %s", alias, error)
        for tier in self._swaps:
            try:
                await self._restore(tier)
            except PipelineError as error:
                log.warning("%s: adapters are not restored: %s", tier, error)
        if self._running:
            await self._save()

    @property
    def report(self) -> dict[str, object]:
        """What serves and what is rolled out."""
        return {
            "aliases": {tier: backend.aliases.table for tier, backend in self._backends.items()},
            "rollouts": {
                alias: {
                    "adapter": running.adapter,
                    "share": running.canary.share,
                    "status": running.canary.status,
                    "reason": running.canary.reason,
                }
                for alias, running in self._running.items()
            },
        }

    async def _decide(self, alias: str) -> None:
        running, tier = self._running.get(alias), _tier(alias)
        if running is None:  # withdrawn since
            return
        status = running.canary.decide(self._clock())
        self._accounts.metrics.canary_share.labels(alias).set(running.canary.share)
        if status == Status.RUNNING:
            return
        log.warning("rollout of %s on %s: %s: %s", running.adapter, alias, status, running.canary.reason)
        if status == Status.PROMOTED:
            model_type = alias.partition("@")[0]
            base = self._backends[tier].server.base
            adapter = await asyncio.to_thread(self._store.get, running.adapter, model_type, base)
            await self._swaps[tier].swap(alias, adapter, running.prompts)
        await self._end(alias)

    async def _end(self, alias: str) -> None:
        # The router forgets the challenger first, so that no new request leases it while it drains.
        self._accounts.rollouts.pop(alias, None)
        await self._swaps[_tier(alias)].withdraw(alias + CHALLENGER)
        ended = self._running.pop(alias)
        kept = Ended(at=self._clock(), alias=alias, adapter=ended.adapter, state=ended.canary.state)
        await asyncio.to_thread(_append, self._file.with_name(ENDED), kept.model_dump_json())
        await self._save()

    async def _restore(self, tier: Tier) -> None:
        backend = self._backends[tier]
        table = backend.aliases.table
        missing = set(table.values()) - await backend.server.list_adapters() if table else set()
        adapters = [
            await asyncio.to_thread(self._store.get, name, alias.partition("@")[0], backend.server.base)
            for alias, name in table.items()
            if name in missing
        ]
        if adapters:
            await self._swaps[tier].restore(adapters)

    async def _save(self) -> None:
        kept = {
            alias: Rollout(state=r.canary.state, adapter=r.adapter, prompts=r.prompts).model_dump(mode="json")
            for alias, r in self._running.items()
        }
        # A flush to disk can take a second on a busy machine.
        async with self._saving:
            await asyncio.to_thread(write_text, self._file, json.dumps(kept) + "\n")


def _append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as kept:
        kept.write(line + "\n")


def _tier(alias: str) -> Tier:
    return Tier(alias.partition("@")[2])


def _read(file: Path) -> dict[str, Rollout]:
    if not file.is_file():
        return {}
    try:
        return {alias: Rollout.model_validate(kept) for alias, kept in json.loads(file.read_bytes()).items()}
    except ValueError as error:
        raise UsageError(
            f"{file} cannot be read ({str(error).splitlines()[0]}): remove it to end its rollouts"
        ) from error

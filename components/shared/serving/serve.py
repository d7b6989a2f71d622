"""Start the router: `srl-rlvr serve router`."""

import asyncio
import functools
import gc
import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from fastapi import FastAPI

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, Tier
from components.shared.serving.accounting import Accounts
from components.shared.serving.app import create_app
from components.shared.serving.complexity import Embedder
from components.shared.serving.dispatch import Backend, Dispatcher
from components.shared.serving.gate import Gatekeeper
from components.shared.serving.layers import LayerPipeline, load_layers
from components.shared.serving.metrics import Metrics
from components.shared.serving.model_router import Router
from components.shared.serving.operations import Operations
from components.shared.serving.router_config import RouterConfig, build_backends, load_router_config, read_keys
from components.shared.serving.selection_file import Selection
from components.shared.serving.trace_shipping import TraceShipper
from components.shared.serving.traces import Scorer, TraceWriter

GRACE_S = 30
"""Seconds that requests have to end when the router is told to stop, and then the last traces to be sent."""


def serve_router(config: Path, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve until told to stop. Raises UsageError for a configuration that must not or cannot be served."""
    import uvicorn

    settings = load_router_config(config)
    if settings.anonymous and not _loopback(host):
        raise UsageError(f"anonymous requests on {host}: take keys, or listen on 127.0.0.1")
    app = build_app(settings, build_backends(settings))
    # What is there now stays: the collector need not look through it again in the middle of a request.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
    )


def build_app(settings: RouterConfig, backends: Mapping[Tier, Backend], log: TextIO = sys.stdout) -> FastAPI:
    """The application over these back ends; decisions are written to `log`."""
    keys = read_keys(settings.keys) if not settings.anonymous else {}
    admin = settings.admin_key
    admin_key = next(iter(read_keys({"admin": admin}))) if admin and os.environ.get(admin) else None
    traces = TraceWriter(settings.state / "traces", scorer=_scorer(settings.world) if settings.world else None)
    dispatcher = Dispatcher(backends)
    embed = _embedder(settings)
    selection = Selection(settings.path(settings.selection), embeds=embed is not None)
    metrics = Metrics()
    accounts = Accounts(
        selection,
        traces,
        metrics=metrics,
        log=log,
        max_hourly_usd=settings.choice.max_hourly_usd,
        metrics_namespace=settings.metrics_namespace,
    )
    router = Router(dispatcher, selection, accounts, choice=settings.choice, limits=settings.limits, embed=embed)
    gate = Gatekeeper(keys, settings.limits, metrics, admin_key=admin_key, anonymous=settings.anonymous)
    file = settings.layers and settings.path(settings.layers)
    lost = metrics.faults.labels("trace_lost").inc
    layers = LayerPipeline(load_layers(file), dispatcher, traces, lost) if file else None
    shipper = TraceShipper(traces, settings.state / "outbox", settings.traces_to) if settings.traces_to else None
    if shipper:
        shipper.start(settings.refresh_s, metrics.faults.labels("traces_waiting").inc)

    async def close() -> None:
        if layers:
            layers.close()
        for backend in backends.values():
            await backend.server.close()
        traces.close()
        if shipper:
            await asyncio.to_thread(shipper.stop, GRACE_S)

    operations = Operations(accounts, backends, settings.state, settings.canary, settings.swap)
    return create_app(router, gate, layers=layers, operations=operations, refresh_s=settings.refresh_s, on_close=close)


def _embedder(settings: RouterConfig) -> Embedder | None:
    if settings.embedding is None:
        return None
    from components.shared.serving.embeddings import load_embedder

    return load_embedder(settings.path(settings.embedding))


def _scorer(world: str) -> Scorer:
    """Scores by the model type's outcome reward: the strict check stays with evaluation, nothing is trained on it."""
    from components.shared.trainers.trainer_factory import create_trainer

    trainer = functools.lru_cache(lambda model_type: create_trainer(model_type, world))

    def score(scenario: Scenario, text: str) -> float:
        return trainer(scenario.model_type).reward(scenario, text).total

    return score


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

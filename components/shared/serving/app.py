"""The router over HTTP.

POST /v1/chat/completions   OpenAI's, streaming too; `model` is MODEL_TYPE or MODEL_TYPE@TIER
POST /v1/layers             the same body with `layers`; one JSON line a layer, each as it comes
GET  /v1/layers/{ticket}    what is there by now, background layers too
GET  /v1/models             what may be asked for
POST /admin/deploy, /admin/withdraw, GET /admin/state     swaps and rollouts, with the admin key
GET  /health, /metrics      without a key
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import Receive, Scope, Send

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.serving.chat_api import DONE, ChatBody, Chunks, completion, error_body, event, parse_body
from components.shared.serving.gate import Gatekeeper, Refused
from components.shared.serving.layers import LayerPipeline, LayerRun
from components.shared.serving.model_router import Router, Streaming
from components.shared.serving.operations import Operations
from components.shared.serving.srl_model_adapter import Unavailable

log = logging.getLogger(__name__)
SESSION = "x-session-id"


class Deployment(BaseModel):
    """The body of POST /admin/deploy."""

    model_config = ConfigDict(extra="forbid")

    model_type: str
    tier: Tier
    policy: Path
    """A sealed policy folder on this machine."""
    canaries: Path | None = None
    """Where its canary prompts are: the evaluation's report folder or a file; by default the policy's own canary.jsonl."""
    rollout: bool = True
    """By a canary rollout, or at once."""


class HeldStream(StreamingResponse):
    """A stream that holds something until it is over, however it ends: a reader may be gone before the first byte."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], held: contextlib.ExitStack, **options: Any):
        super().__init__(pieces, **options)
        self._pieces, self._held = pieces, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with contextlib.aclosing(self._pieces):
                await super().__call__(scope, receive, send)


def create_app(
    router: Router,
    gate: Gatekeeper,
    *,
    layers: LayerPipeline | None = None,
    operations: Operations | None = None,
    refresh_s: float = 10.0,
    on_close: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """The application; while it runs, the selection table is followed and rollouts are decided every `refresh_s`."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeping = asyncio.create_task(_housekeeping(router, operations, refresh_s))
        yield
        housekeeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await housekeeping
        if on_close:
            await on_close()

    app = FastAPI(title="SRL->RLVR router", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _handle_errors(app, router)
    _add_chat(app, router, gate)
    _add_status(app, router, gate)
    if layers is not None:
        _add_layers(app, gate, layers)
    if operations is not None:
        _add_admin(app, gate, operations)
    return app


async def _housekeeping(router: Router, operations: Operations | None, refresh_s: float) -> None:
    while True:
        try:
            router.selection.refresh()
        except PipelineError:
            router.accounts.metrics.faults.labels("selection").inc()
        router.accounts.metrics.table.clear()
        router.accounts.metrics.table.labels(router.selection.version).set(1)
        for tier, backend in router.dispatcher.backends.items():
            router.accounts.metrics.availability.labels(tier).set(backend.health.availability)
        if operations is not None:
            try:
                await operations.tick()
            except Exception:
                # Whatever fails here, serving goes on and the next tick tries again.
                log.exception("housekeeping failed")
                router.accounts.metrics.faults.labels("housekeeping").inc()
        await asyncio.sleep(refresh_s)


def _handle_errors(app: FastAPI, router: Router) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        router.accounts.metrics.refused.labels(error.reason).inc()
        return _json(error_body(error.status, str(error)), error.status)

    @app.exception_handler(PipelineError)
    async def failed(_: Request, error: PipelineError) -> Response:
        status = getattr(error, "status", 400) if isinstance(error, UsageError) else 503
        return _json(error_body(status, str(error)), status)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        log.error("unexpected", exc_info=error)
        router.accounts.metrics.faults.labels("unexpected").inc()
        return _json(error_body(500, "internal error"), 500)


def _add_chat(app: FastAPI, router: Router, gate: Gatekeeper) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        who = gate.who(request)
        with contextlib.ExitStack() as admitted:
            admitted.enter_context(gate.admitted(who))
            body = parse_body(await gate.body(request))
            session = request.headers.get(SESSION) or body.user
            if body.stream:
                streaming = await router.stream(body, session, who)
                admitted.callback(streaming.close)
                # The request stays in flight until its stream ends.
                return HeldStream(
                    _events(body, streaming),
                    admitted.pop_all(),
                    media_type="text/event-stream",
                    headers={"x-tier": streaming.tier},
                )
            decision, served = await router.answer(body, session, who)
            return _json(completion(decision.request_id, served.value), headers={"x-tier": served.route.tier})


async def _events(body: ChatBody, streaming: Streaming) -> AsyncGenerator[bytes, None]:
    chunks, first = Chunks(streaming.decision.request_id, streaming.model), True
    async with contextlib.aclosing(streaming.pieces) as pieces:
        try:
            async for delta in pieces:
                if delta.text or first:
                    yield chunks.text(delta.text, first=first)
                    first = False
                if delta.finish_reason is not None:
                    yield chunks.end(delta.finish_reason)
                    if body.stream_options and body.stream_options.include_usage:
                        yield chunks.usage(delta.prompt_tokens, delta.completion_tokens)
        except Unavailable as error:
            yield event(error_body(503, str(error)))
            return
    yield DONE


def _add_layers(app: FastAPI, gate: Gatekeeper, layers: LayerPipeline) -> None:
    @app.post("/v1/layers")
    async def run(request: Request) -> Response:
        who = gate.who(request)
        with contextlib.ExitStack() as admitted:
            admitted.enter_context(gate.admitted(who))
            body = parse_body(await gate.body(request))
            started = layers.start(body.model, body.request(gate.limits), body.layers or ())
            return HeldStream(
                _lines(started),
                admitted.pop_all(),
                media_type="application/x-ndjson",
                headers={"x-ticket": started.ticket},
            )

    @app.get("/v1/layers/{ticket}")
    async def fetch(ticket: str, request: Request) -> Response:
        gate.who(request)
        run = layers.run(ticket)
        return _json({"answers": [a.model_dump(mode="json") for a in run.fetch()], "pending": run.pending})


async def _lines(run: LayerRun) -> AsyncGenerator[bytes, None]:
    async for answer in run.answers():
        yield answer.model_dump_json().encode() + b"\n"


def _add_status(app: FastAPI, router: Router, gate: Gatekeeper) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        gate.who(request)
        names = [
            name
            for model_type in router.selection.model_types
            for name in (model_type, *(f"{model_type}@{tier}" for tier in router.selection.benchmarks(model_type)))
        ]
        return _json({"object": "list", "data": [{"id": n, "object": "model", "owned_by": "srl-rlvr"} for n in names]})

    @app.get("/health")
    async def health() -> Response:
        tiers = {tier: backend.health.admits for tier, backend in router.dispatcher.backends.items()}
        return _json({"tiers": tiers, "selection": router.selection.version}, 200 if any(tiers.values()) else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(router.accounts.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_admin(app: FastAPI, gate: Gatekeeper, operations: Operations) -> None:
    @app.post("/admin/deploy")
    async def deploy(request: Request) -> Response:
        gate.admin(request)
        try:
            wanted = Deployment.model_validate_json(await gate.body(request))
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            raise UsageError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        report = await operations.deploy(
            wanted.model_type, wanted.tier, wanted.policy, canaries=wanted.canaries, rollout=wanted.rollout
        )
        return _json(report.model_dump(mode="json"))

    @app.post("/admin/withdraw")
    async def withdraw(request: Request) -> Response:
        gate.admin(request)
        try:
            alias = str(json.loads(await gate.body(request))["alias"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError('the body is not {"alias": "MODEL_TYPE@TIER"}') from error
        await operations.withdraw(alias)
        return _json(operations.report)

    @app.get("/admin/state")
    async def state(request: Request) -> Response:
        gate.admin(request)
        return _json(operations.report)


def _json(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # No request is tried again here: the router has tried what there is, and says when to come back.
    more = {"Retry-After": "5"} if status in (429, 503) else {}
    content = json.dumps(value, ensure_ascii=False).encode()
    return Response(content, status, {**(headers or {}), **more}, media_type="application/json")

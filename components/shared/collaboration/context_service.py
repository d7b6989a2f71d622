"""The context retriever over HTTP: `srl-rlvr serve context`.

POST /v1/context            {"query": TEXT, "depth": N} or {"scenario": SCENARIO, "depth": N}: ids and scores, best first
GET  /v1/documents/{id}     one document with the facts about its entities
GET  /healthz               without a token
GET  /openapi.json, /docs   without a token

Documents go in and out by id; nothing is ever fetched from an address that a request names. Every error has the same shape,
{"error": {"code", "message"}}. The token comes as `Authorization: Bearer`; where a gateway in front checks SigV4 instead,
it adds the token in a header of its own, so that nobody gets past the gateway.
"""

import hmac
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from components.shared.collaboration.context_api import Answer, Found, KnownDocument, Query
from components.shared.collaboration.context_retriever import Retriever
from components.shared.contracts.errors import PipelineError, UsageError

TOKEN = "SRL_RLVR_CONTEXT_TOKEN"
"""Environment variable that holds the token which requests must bring."""
FRONT_HEADER = "x-front-token"
CODES = {400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class Limits(BaseModel):
    """What one request may ask, and how many may ask at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(default=65_536, ge=1)
    depth: int = Field(default=50, ge=1)
    in_flight: int = Field(default=64, ge=1)


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


def create_app(
    retriever: Retriever, token: str | None, limits: Limits | None = None, *, fronted: bool = False
) -> FastAPI:
    """The service. `token` none asks for none; `fronted` reads it from the gateway's header."""
    limits = limits or Limits()
    app = FastAPI(title="Context retriever", version="1", description="Documents and typed facts for a scenario.")
    room = threading.BoundedSemaphore(limits.in_flight)

    def allowed(request: Request) -> None:
        given = request.headers.get(FRONT_HEADER, "") if fronted else _bearer(request)
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise Refused(401, "unauthorized", "no valid token: send Authorization: Bearer TOKEN")

    @app.middleware("http")
    async def bounded(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        fault = await _too_large(request, limits.body_bytes)
        return fault or await proceed(request)

    @app.post("/v1/context", dependencies=[Depends(allowed)])
    def context(query: Query) -> Answer:
        if query.depth > limits.depth:
            raise Refused(400, "bad_request", f"depth {query.depth}: at most {limits.depth}")
        if not room.acquire(blocking=False):
            raise Refused(429, "busy", f"{limits.in_flight} requests are being answered: try again")
        try:
            if query.scenario is not None:
                found = [Found(id=d.id) for d in retriever.for_scenario(query.scenario, query.depth)]
            else:
                found = [
                    Found(id=hit.id, score=hit.score) for hit in retriever.retrieve(query.query or "", query.depth)
                ]
            return Answer(documents=found)
        finally:
            room.release()

    @app.get("/v1/documents/{id}", dependencies=[Depends(allowed)])
    def document(id: Annotated[str, Field(max_length=200)]) -> KnownDocument:
        try:
            known = retriever.document(id)
        except UsageError as error:
            raise Refused(404, "not_found", str(error)) from error
        return KnownDocument(document=known, facts=retriever.facts_of(known))

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    _add_errors(app)
    return app


def serve_context(
    source: str,
    host: str = "127.0.0.1",
    port: int = 8081,
    *,
    cache: Path | None = None,
    embeddings: bool = False,
    fronted: bool = False,
    anonymous: bool = False,
    limits: Limits | None = None,
) -> None:
    """Serve `source` until told to stop: a folder of documents, `world:NAME`, or the address of another service.

    The token is read from SRL_RLVR_CONTEXT_TOKEN. Raises UsageError where there is none and `anonymous` does not say so.
    """
    import uvicorn

    from components.shared.collaboration.sources import open_retriever

    token = os.environ.get(TOKEN) or None
    if token is None and not anonymous:
        raise UsageError(f"environment variable {TOKEN} holds no token: export one, or serve anonymously on loopback")
    if anonymous and host not in ("127.0.0.1", "::1", "localhost"):
        raise UsageError(f"anonymous requests on {host}: export {TOKEN}, or listen on 127.0.0.1")
    retriever = open_retriever(source, cache=cache, embeddings=embeddings)
    app = create_app(retriever, None if anonymous else token, limits, fronted=fronted)
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, log_level="warning")


def _bearer(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given if scheme.lower() == "bearer" else ""


async def _too_large(request: Request, most: int) -> Response | None:
    """The refusal of a body that says, or turns out, to be longer than `most`; else the body is kept for the handler."""
    size = 0
    if request.headers.get("content-length", "0").isdigit() and int(request.headers.get("content-length", "0")) > most:
        return _error(413, "too_large", f"the body has more than {most} bytes")
    if "transfer-encoding" in request.headers:
        parts = []
        async for part in request.stream():
            size += len(part)
            if size > most:
                return _error(413, "too_large", f"the body has more than {most} bytes")
            parts.append(part)
        request._body = b"".join(parts)
    return None


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _error(error.status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        return _error(400, "bad_request", f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")

    @app.exception_handler(HTTPException)
    async def known(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, CODES.get(error.status_code, "error"), str(error.detail))

    @app.exception_handler(PipelineError)
    async def unavailable(_: Request, error: PipelineError) -> Response:
        return _error(503, "unavailable", str(error))


def _error(status: int, code: str, message: str) -> Response:
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    body: dict[str, Any] = {"error": {"code": code, "message": message}}
    return JSONResponse(body, status, headers=headers)

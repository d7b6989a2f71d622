"""vLLM's OpenAI-compatible server with its runtime LoRA endpoints.

Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora, on loopback: --api-key guards /v1 alone.

    POST /v1/load_lora_adapter    {"lora_name", "lora_path", "load_inplace": false}
    POST /v1/unload_lora_adapter  {"lora_name"}
    GET  /v1/models               id, root and parent of base and adapters
    POST /v1/completions, /v1/chat/completions
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.serving.adapters import Adapter, ServedBase
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, Delta, ModelServer, Unavailable

CONNECTIONS = 512
IDLE_S = 30.0
"""Seconds without a byte after which a stream counts as dead."""


class VLLMServer(ModelServer):
    """One vLLM server. It reads adapters from its own disk, so the adapter store is a folder that both see."""

    def __init__(
        self,
        url: str,
        base: ServedBase,
        *,
        key: str | None = None,
        chat: bool = True,
        timeout_s: float = 60.0,
        load_timeout_s: float = 300.0,
    ):
        """`chat` sends turns for the server's chat template; without it the plain text, as policies without one read."""
        self.base = base
        self._url = url.rstrip("/")
        self._chat = chat
        self._timeout_s = timeout_s
        self._load_timeout_s = load_timeout_s
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def load(self, adapter: Adapter) -> None:
        if adapter.rank is None:
            raise UsageError(
                f"{adapter.name} is a whole policy: start a vLLM server on it, only LoRA is loaded at runtime"
            )
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder), "load_inplace": False}
        try:
            await self._post("/v1/load_lora_adapter", body, self._load_timeout_s)
        except PipelineError:
            # "already loaded" and a lost response both leave it resident, which is what was asked.
            if not await self._resident(adapter.name):
                raise

    async def unload(self, name: str) -> None:
        try:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name}, self._timeout_s)
        except PipelineError:
            if await self._resident(name):
                raise

    async def list_adapters(self) -> frozenset[str]:
        models = json.loads(await self._request("GET", "/v1/models", None, self._timeout_s))["data"]
        return frozenset(model["id"] for model in models if model.get("parent"))

    async def generate(self, model: str, request: ChatRequest) -> Answer:
        text = await self._post(self._path, self._body(model, request), self._timeout_s)
        try:
            reply = json.loads(text)
            choice, usage = reply["choices"][0], reply["usage"]
            answer = Answer(
                model=reply["model"],
                text=(choice["message"]["content"] if self._chat else choice["text"]) or "",
                finish_reason=choice["finish_reason"] or "stop",
                prompt_tokens=usage["prompt_tokens"],
                completion_tokens=usage["completion_tokens"],
            )
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unavailable(f"{self._url} answers with no completion ({error!r}): check what serves there") from error
        if answer.model != model:
            raise Unavailable(f"{self._url} answered as {answer.model}, {model} was asked: check what serves there")
        return answer

    async def stream(self, model: str, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        body = {**self._body(model, request), "stream": True, "stream_options": {"include_usage": True}}
        # A whole stream may be long; what must not be long is the silence.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=min(IDLE_S, self._timeout_s))
        finish: str | None = None
        usage: dict[str, int] = {}
        async with self._errors(self._path), self._open(self._path, body, timeout) as response:
            await _raise_for_status(response, self._url + self._path)
            async for events in _events(response.content):
                text = ""
                for event in events:
                    if "error" in event:
                        raise Unavailable(f"{self._url}: {event['error'].get('message')}")
                    usage = event.get("usage") or usage
                    for choice in event["choices"]:
                        finish = choice.get("finish_reason") or finish
                        text += (choice["delta"].get("content") if self._chat else choice["text"]) or ""
                if text:
                    yield Delta(text=text)
        if finish is None:
            raise Unavailable(f"{self._url}: the stream ended before the answer did")
        counts = {name: int(usage.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")}
        yield Delta(text="", finish_reason=finish, **counts)

    async def health(self) -> None:
        await self._request("GET", "/health", None, 5.0)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _path(self) -> str:
        return "/v1/chat/completions" if self._chat else "/v1/completions"

    def _body(self, model: str, request: ChatRequest) -> dict[str, Any]:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        body: dict[str, Any] = {
            "model": model,
            **({"messages": turns} if self._chat else {"prompt": request.text}),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        return body

    async def _resident(self, name: str) -> bool:
        try:
            return name in await self.list_adapters()
        except PipelineError:
            return False

    async def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> str:
        return await self._request("POST", path, body, timeout_s)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> str:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0)
        async with self._errors(path), self._open(path, body, timeout, method) as response:
            await _raise_for_status(response, self._url + path)
            return await response.text()

    def _open(self, path: str, body: Any, timeout: aiohttp.ClientTimeout, method: str = "POST"):
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, trust_env=False)
        return self._session.request(method, self._url + path, json=body, timeout=timeout, allow_redirects=False)

    @contextlib.asynccontextmanager
    async def _errors(self, path: str) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.TimeoutError as error:  # noqa: UP041 - aiohttp's own timeouts derive from this name
            raise Unavailable(
                f"{self._url}{path} gave no answer in time: check the server, or raise timeout_s"
            ) from error
        except (aiohttp.ClientError, UnicodeDecodeError, ValueError, KeyError) as error:
            raise Unavailable(
                f"{self._url}{path}: {error or type(error).__name__}: check that the server runs"
            ) from error


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[list[dict[str, Any]]]:
    """The server-sent events, those that came together together: a burst of tokens costs its reader one step, not many."""
    rest = b""
    async for part in content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if events := [json.loads(line) for line in data if line != b"[DONE]"]:
            yield events


async def _raise_for_status(response: aiohttp.ClientResponse, url: str) -> None:
    """Faults of the request are UsageErrors; a missing model, a busy or a broken server are its own."""
    if response.status < 300:
        return
    text = await response.text()
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:200]
    line = f"{url} says {response.status}: {' '.join(str(message).split())[:300]}"
    if response.status in (400, 413, 422):
        raise UsageError(line)
    raise Unavailable(line)

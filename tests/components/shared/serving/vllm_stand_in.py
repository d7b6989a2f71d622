"""A small server of vLLM's HTTP API, with its statuses and messages, that can be told to fail.

An adapter's answer is one word, eight digits of its weights' hash, as often as tokens are asked for, and the word is looked
up anew for every token: a request whose adapter is swapped or unloaded underneath shows it.

    python vllm_stand_in.py --model NAME [--port N] [--token-ms N] [--first-ms N]     prints the port it listens on
"""

import argparse
import asyncio
import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from safetensors import SafetensorError, safe_open


@dataclass
class StandIn:
    """The server's state; tests set the faults directly."""

    model: str = "base"
    max_rank: int = 16
    key: str | None = None
    first_s: float = 0.0
    token_s: float = 0.0
    adapters: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Word and path by name."""
    slow_load_s: float = 0.0
    lose_load_response: bool = False
    lose_unload_response: bool = False
    failures: int = 0
    """How many of the next completions answer 500."""
    break_stream_after: int | None = None
    """Tokens after which a stream's connection is cut."""
    served: int = 0
    seen: list[dict] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_post("/v1/load_lora_adapter", self.load)
        app.router.add_post("/v1/unload_lora_adapter", self.unload)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self.complete)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler):
        if self.key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def load(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return _error(400, "Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        await asyncio.sleep(self.slow_load_s)
        folder = Path(path)
        if not (folder / "adapter_config.json").is_file():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        try:
            rank = json.loads((folder / "adapter_config.json").read_bytes())["r"]
            if rank > self.max_rank:
                raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
            with safe_open(str(folder / "adapter_model.safetensors"), framework="numpy") as tensors:
                tensors.keys()
        except (ValueError, SafetensorError) as error:
            return _error(500, str(error), "InternalServerError")
        word = sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:8]
        self.adapters[name] = (word, path)
        if self.lose_load_response:
            request.transport.abort()
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        if self.lose_unload_response:
            request.transport.abort()
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def models(self, _: web.Request) -> web.Response:
        base = {"id": self.model, "object": "model", "root": self.model, "parent": None}
        loras = [
            {"id": name, "object": "model", "root": path, "parent": self.model}
            for name, (_, path) in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": [base, *loras]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        del self.seen[:-50]
        if body["model"] != self.model and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if body["max_tokens"] > 4096:
            return _error(400, f"max_tokens {body['max_tokens']} is too large.", "BadRequestError")
        if self.failures:
            self.failures -= 1
            return _error(500, "EngineDeadError", "InternalServerError")
        self.served += 1
        await asyncio.sleep(self.first_s)
        return await (self._stream if body.get("stream") else self._whole)(request, body)

    async def _words(self, body: dict):
        for _ in range(body["max_tokens"]):
            if self.token_s:
                await asyncio.sleep(self.token_s)
            yield self.model if body["model"] == self.model else self.adapters[body["model"]][0]

    async def _whole(self, request: web.Request, body: dict) -> web.Response:
        text = " ".join([word async for word in self._words(body)])
        choice = {"index": 0, "finish_reason": "length"}
        chat = request.path.endswith("/chat/completions")
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": self._usage(body)})

    async def _stream(self, request: web.Request, body: dict) -> web.StreamResponse:
        chat = request.path.endswith("/chat/completions")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        async for word in self._words(body):
            if sent == self.break_stream_after:
                request.transport.abort()
                return response
            piece = word if sent == 0 else f" {word}"
            await _event(response, body, [{"delta": {"content": piece}} if chat else {"text": piece}])
            sent += 1
        await _event(response, body, [{"delta": {}, "text": "", "finish_reason": "length"}])
        await _event(response, body, [], usage=self._usage(body))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _usage(self, body: dict) -> dict[str, int]:
        text = body.get("prompt") or " ".join(m["content"] for m in body["messages"])
        return {"prompt_tokens": len(text.split()), "completion_tokens": body["max_tokens"]}


async def _event(response: web.StreamResponse, body: dict, choices: list, **more) -> None:
    event = {"model": body["model"], "choices": choices, **more}
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status
    )


async def listen(app: web.Application, port: int = 0) -> tuple[web.AppRunner, int]:
    """Serve on loopback; returns the runner, to clean up, and the port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, site._server.sockets[0].getsockname()[1]


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--first-ms", type=float, default=0.0)
    options = parser.parse_args()
    state = StandIn(model=options.model, token_s=options.token_ms / 1000, first_s=options.first_ms / 1000)
    _, port = await listen(state.app(), options.port)
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

"""TensorRT-LLM behind Triton, over its HTTP inference protocol with binary tensors.

The first request of an adapter carries `lora_task_id`, `lora_weights` and `lora_config`, later ones the id alone. The
server's cache evicts adapters as it likes and says so; the weights then go with the next request, which is no retry: the
first was refused before any work. There is no unloading, so a retired adapter is only forgotten here.
"""

import asyncio
import json
from typing import Any

import aiohttp
import numpy as np

from components.shared.contracts.errors import UsageError
from components.shared.serving.adapters import Adapter, ServedBase
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, ModelServer, Unavailable, ask
from components.shared.serving.trtllm_lora import lora_tensors, task_id

DTYPES = {"float16": "FP16", "int32": "INT32", "uint64": "UINT64", "float32": "FP32"}
EVICTED = "not found in cache"


class TritonServer(ModelServer):
    """One Triton model (the TensorRT-LLM ensemble, `base.name`) with LoRA enabled."""

    def __init__(self, url: str, base: ServedBase, *, timeout_s: float = 60.0):
        self.base = base
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0)
        self._adapters: dict[str, Adapter] = {}
        self._session: aiohttp.ClientSession | None = None

    async def load(self, adapter: Adapter) -> None:
        if adapter.rank is None:
            raise UsageError(f"{adapter.name} is a whole policy: build an engine of it, only LoRA is loaded at runtime")
        await self._infer(ask(".", 1), adapter, weights=True)
        self._adapters[adapter.name] = adapter

    async def unload(self, name: str) -> None:
        self._adapters.pop(name, None)

    async def list_adapters(self) -> frozenset[str]:
        return frozenset(self._adapters)

    async def generate(self, model: str, request: ChatRequest) -> Answer:
        adapter = self._adapters.get(model)
        if adapter is None and model != self.base.name:
            raise Unavailable(f"{self._url} has no model {model!r}: load it")
        try:
            outputs = await self._infer(request, adapter)
        except _Evicted:
            outputs = await self._infer(request, adapter, weights=True)
        try:
            text = str(outputs["text_output"][0])
        except (KeyError, IndexError) as error:
            raise Unavailable(f"{self._url}: {self.base.name} gives no text_output: check the ensemble") from error
        # The ensemble counts tokens only where its outputs are configured to; words are the fallback.
        counts = [int(outputs[name][0]) for name in ("input_token_count", "output_token_count") if outputs.get(name)]
        prompt_tokens, tokens = counts if len(counts) == 2 else (len(request.text.split()), len(text.split()))
        finish = "length" if tokens >= request.max_tokens else "stop"
        return Answer(
            model=model, text=text, finish_reason=finish, prompt_tokens=prompt_tokens, completion_tokens=tokens
        )

    async def health(self) -> None:
        path = f"/v2/models/{self.base.name}/ready"
        try:
            async with self._open("GET", path) as response:
                if response.status != 200:
                    raise Unavailable(f"{self._url}: {self.base.name} is not ready ({response.status})")
        except (asyncio.TimeoutError, aiohttp.ClientError) as error:  # noqa: UP041
            raise Unavailable(f"{self._url}: {error or type(error).__name__}: check that the server runs") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _infer(
        self, request: ChatRequest, adapter: Adapter | None, weights: bool = False
    ) -> dict[str, list[Any]]:
        tensors = await asyncio.to_thread(_tensors, request, adapter, weights)
        header, body = encode(tensors)
        sizes = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        try:
            async with self._open("POST", f"/v2/models/{self.base.name}/infer", header + body, sizes) as response:
                reply = await response.json(content_type=None)
                if response.status == 200:
                    return {output["name"]: output["data"] for output in reply["outputs"]}
                message = str(reply.get("error", reply))[:300]
        except (asyncio.TimeoutError, aiohttp.ClientError, ValueError, KeyError, AttributeError) as error:  # noqa: UP041
            raise Unavailable(f"{self._url}: {error or type(error).__name__}: check that the server runs") from error
        if EVICTED in message and not weights:
            raise _Evicted(message)
        raise (UsageError if response.status == 400 and "LoRA" not in message else Unavailable)(
            f"{self._url} says {response.status}: {message}"
        )

    def _open(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self._session.request(method, self._url + path, data=body, headers=headers, allow_redirects=False)


class _Evicted(Unavailable):
    """The server's cache no longer holds the adapter."""


def _tensors(request: ChatRequest, adapter: Adapter | None, weights: bool) -> dict[str, np.ndarray]:
    """A request's input tensors, each with a batch dimension of 1."""
    tensors: dict[str, np.ndarray] = {
        "text_input": np.array([[request.text]], dtype=object),
        "max_tokens": np.array([[request.max_tokens]], dtype=np.int32),
        "temperature": np.array([[request.temperature or 1.0]], dtype=np.float32),
        "top_k": np.array([[0 if request.temperature else 1]], dtype=np.int32),
        "top_p": np.array([[request.top_p]], dtype=np.float32),
    }
    if request.seed is not None:
        tensors["random_seed"] = np.array([[request.seed]], dtype=np.uint64)
    if request.stop:
        tensors["stop_words"] = np.array([request.stop], dtype=object)
    if adapter is not None:
        tensors["lora_task_id"] = np.array([[task_id(adapter.digest)]], dtype=np.uint64)
        if weights:
            tensors["lora_weights"], tensors["lora_config"] = lora_tensors(adapter.folder)
    return tensors


def encode(tensors: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """The JSON header and the binary part of an inference request, Triton's binary tensor data extension."""
    inputs, parts = [], []
    for name, tensor in tensors.items():
        if tensor.dtype == object:
            part = b"".join(len(b).to_bytes(4, "little") + b for b in (str(text).encode() for text in tensor.ravel()))
            dtype = "BYTES"
        else:
            part, dtype = np.ascontiguousarray(tensor).tobytes(), DTYPES[tensor.dtype.name]
        parts.append(part)
        size = {"binary_data_size": len(part)}
        inputs.append({"name": name, "shape": list(tensor.shape), "datatype": dtype, "parameters": size})
    header = {"inputs": inputs, "parameters": {"binary_data_output": False}}
    return json.dumps(header).encode(), b"".join(parts)

"""Against a real socket that reads Triton's binary protocol and keeps one adapter in its cache."""

import asyncio
import json

import numpy as np
import pytest
from aiohttp import web

from components.shared.serving.adapters import AdapterStore
from components.shared.serving.srl_model_adapter import Unavailable, ask
from components.shared.serving.triton_server import TritonServer

DTYPES = {"FP16": np.float16, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}


class Ensemble:
    """Answers with the cached adapter's checksum; a second adapter evicts the first."""

    def __init__(self):
        self.cache = {}
        self.seen = []

    async def infer(self, request):
        raw = await request.read()
        cut = int(request.headers["Inference-Header-Content-Length"])
        header, rest, tensors = json.loads(raw[:cut]), raw[cut:], {}
        for entry in header["inputs"]:
            size = entry["parameters"]["binary_data_size"]
            part, rest = rest[:size], rest[size:]
            if entry["datatype"] == "BYTES":
                tensors[entry["name"]] = part[4:].decode()
            else:
                tensors[entry["name"]] = np.frombuffer(part, DTYPES[entry["datatype"]]).reshape(entry["shape"])
        assert rest == b""
        self.seen.append(set(tensors))
        task = int(tensors["lora_task_id"][0, 0]) if "lora_task_id" in tensors else None
        if "lora_weights" in tensors:
            self.cache = {task: f"{np.abs(tensors['lora_weights']).astype(np.float64).sum():.3f}"}
        if task is not None and task not in self.cache:
            message = f"LoRA task {task} not found in cache. Please send LoRA weights with request"
            return web.json_response({"error": message}, status=500)
        text = self.cache.get(task, "base")
        return web.json_response({"outputs": [{"name": "text_output", "data": [text]}]})

    async def ready(self, _):
        return web.Response()


def test_weights_travel_once_and_again_after_an_eviction(stand_in, make_adapter, base, tmp_path):
    store = AdapterStore(tmp_path / "store")
    one, other = (store.add(make_adapter(seed), "npc_dialogue", base) for seed in (1, 2))

    async def main():
        ensemble, app = Ensemble(), web.Application()
        app.router.add_post("/v2/models/base/infer", ensemble.infer)
        app.router.add_get("/v2/models/base/ready", ensemble.ready)
        runner, port = await stand_in.listen(app)
        server = TritonServer(f"http://127.0.0.1:{port}", base)
        await server.health()
        assert (await server.generate("base", ask("the bell", 4))).text == "base"
        await server.load(one)
        first = (await server.generate(one.name, ask("the bell", 4))).text
        assert "lora_weights" not in ensemble.seen[-1]
        await server.load(other)  # evicts `one`
        assert (await server.generate(other.name, ask("the bell", 4))).text != first
        assert (await server.generate(one.name, ask("the bell", 4))).text == first
        assert "lora_weights" in ensemble.seen[-1]
        assert await server.list_adapters() == {one.name, other.name}
        await server.unload(one.name)
        with pytest.raises(Unavailable, match="no model"):
            await server.generate(one.name, ask("the bell", 4))
        await runner.cleanup()
        with pytest.raises(Unavailable, match="check that the server runs"):
            await server.generate(other.name, ask("the bell", 4))
        await server.close()

    asyncio.run(main())

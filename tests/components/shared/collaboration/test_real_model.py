"""A real small model behind a real server: `transformers serve` with SmolLM2, opted into by SRL_RLVR_SMOLLM2=DIR.

DIR holds SmolLM2-135M-Instruct as transformers saves it (config.json, model.safetensors, tokenizer files).
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from components.shared.collaboration.budget import Bill
from components.shared.collaboration.endpoint import Endpoint
from components.shared.collaboration.request_cache import RequestCache
from components.shared.collaboration.teacher_config import TeacherConfig
from components.shared.collaboration.teacher_planner import UnreadableAnswer

FOLDER = os.environ.get("SRL_RLVR_SMOLLM2")
STARTS_S = 180


@pytest.fixture(scope="module")
def url():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", FOLDER, "--port", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + STARTS_S
        while time.monotonic() < deadline:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health").is_success:
                    break
            except httpx2.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="set SRL_RLVR_SMOLLM2 to a folder with the model")
def test_a_real_model_is_asked_once_and_then_read_from_the_record(url, tmp_path):
    config = TeacherConfig(base_url=url, model=FOLDER, key_variable=None, max_tokens=24, timeout_s=120)
    messages = [{"role": "user", "content": "Reply with the word bell and nothing else."}]

    def ask():
        endpoint = Endpoint(config, cache=RequestCache(tmp_path / "requests.sqlite"))

        async def once():
            try:
                return await endpoint.complete(messages, {"type": "object"}, seed=1, bill=Bill())
            except UnreadableAnswer as cut_off:  # a model this small may talk on to its token limit
                return cut_off.answer
            finally:
                await endpoint.close()

        return asyncio.run(once()), endpoint

    (first, endpoint), started = ask(), time.monotonic()
    assert first and endpoint.spent["completion_tokens"] > 0 and endpoint.budget.spent.tokens > 0
    (second, _), seconds = ask(), time.monotonic() - started
    assert second == first and seconds < 5

"""An OpenAI-compatible teacher on a loopback socket that knows a model type's scenarios, with the faults of real ones.

    python tests/components/shared/collaboration/teacher_stand_in.py --model-type T --train N --latency-ms 100

Prints its port. The answer is a function of the request alone: right, or with the scripted expert's slips. One request in
`fault_every` first meets a 429, a 500, a broken body or a closed connection, then is answered when it is asked again.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator

from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.collaboration.request_cache import request_key
from components.shared.collaboration.teacher_planner import FLAWLESS
from components.shared.contracts.records import Split
from components.shared.storage.artifacts import canonical_json
from components.shared.trainers.trainer_factory import create_trainer

FAULTS = ("429", "500", "broken body", "closed")


class TeacherStandIn:
    """What the server knows and what it was asked."""

    def __init__(
        self,
        model_type: str,
        counts: dict[Split, int],
        seed: int = 0,
        *,
        latency_s: float = 0.0,
        fault_every: int = 0,
        flawless: bool = False,
    ):
        trainer = create_trainer(model_type, "wrackmere")
        self._trainer, self._latency_s, self._fault_every = trainer, latency_s, fault_every
        self._habits = FLAWLESS if flawless else trainer.teacher
        scenarios = generate_scenarios(trainer, counts, seed)
        self._scenarios = {s.prompt: s for split in scenarios.values() for s in split}
        self._ready = {prompt: self._answer(scenario, b"") for prompt, scenario in self._scenarios.items()}
        self._flawless = flawless
        self.asked: list[str] = []
        """Keys of the requests, in order of arrival."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, body: bytes) -> tuple[str, bytes]:
        """Which fault there is, if any, and the response's body."""
        request = json.loads(body)
        seed = request.get("seed")
        key = request_key(self.url, canonical_json(request))
        self.asked.append(key)
        digest = int(hashlib.sha256(f"{seed}".encode()).hexdigest(), 16)
        if self._fault_every and digest % self._fault_every == 0 and Counter(self.asked)[key] == 1:
            return FAULTS[digest // self._fault_every % len(FAULTS)], b""
        prompt = request["messages"][1]["content"].split("# Situation\n")[1].splitlines()[0]
        return "", self._ready[prompt] if self._flawless else self._answer(self._scenarios[prompt], body)

    def _answer(self, scenario, body: bytes) -> bytes:
        steps = self._trainer.demonstrate(scenario, random.Random(body), self._habits)
        content = json.dumps({"steps": [{"title": step.title, "text": step.text} for step in steps]})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        shell = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return json.dumps({**shell, "choices": [choice], "usage": usage}).encode()

    async def serve(self, port: int = 0) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    @contextlib.contextmanager
    def running(self) -> Iterator["TeacherStandIn"]:
        """Serve from a thread while the block lasts."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(self.serve())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def send(self, transport: asyncio.Transport, fault: str, body: bytes) -> None:
        if transport.is_closing():
            return
        if fault == "closed":
            transport.close()
            return
        status, body = {
            "429": (429, b'{"error": {"message": "slow down"}}'),
            "500": (500, b'{"error": {"message": "boom"}}'),
            "broken body": (200, b'{"choices": [{"mess'),
        }.get(fault, (200, body))
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nRetry-After-Ms: 1\r\n"
        transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with kept-alive connections, as much of it as a client of one API needs."""

    def __init__(self, stand_in: TeacherStandIn):
        self._stand_in = stand_in
        self._received = b""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._received) < end + 4 + length:
                return
            body = self._received[end + 4 : end + 4 + length]
            self._received = self._received[end + 4 + length :]
            loop = asyncio.get_running_loop()
            fault, answer = self._stand_in.answer(body)
            loop.call_later(self._stand_in._latency_s, self._stand_in.send, self._transport, fault, answer)


async def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--model-type", default="npc_dialogue")
    p.add_argument("--train", type=int, default=2000)
    p.add_argument("--validation", type=int, default=1)
    p.add_argument("--latency-ms", type=float, default=100)
    arguments = p.parse_args()
    counts = {Split.TRAIN: arguments.train, Split.VALIDATION: arguments.validation, Split.TEST: 1}
    stand_in = TeacherStandIn(arguments.model_type, counts, latency_s=arguments.latency_ms / 1000, flawless=True)
    server = await stand_in.serve()
    print(stand_in.port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

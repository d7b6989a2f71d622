"""A toy world and model type, and an OpenAI-compatible server on a loopback socket."""

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.shared.collaboration.world import Document, Fact, World
from components.shared.contracts.records import Step, Verdict
from components.shared.trainers.base_trainer import Check, Habits, ModelTypeTrainer, Reward

LORE = {
    "bell": "The bell rings at dawn over the harbour and nobody pulls the rope.",
    "dyke": "The dyke keeps the sea out of the orchard.",
    "ferry": "The ferry crosses at slack water, twice a day.",
    "mill": "The mill grinds salt since the river turned.",
    "twin_a": "Two wells share one spring.",
    "twin_b": "Two wells share one spring.",
}


class SumTrainer(ModelTypeTrainer):
    """Adds two numbers in two steps: `add A B`, then `is C`. The careless expert is off by one until told."""

    name = "sum"
    step_titles = ("add", "is")
    teacher = Habits(visible=0.5, hidden=0.5, noise=0.0)
    folk = Habits(visible=0.2, hidden=0.2, noise=0.0)
    limit = 40

    def sample_state(self, rng):
        a, b = rng.randrange(self.limit), rng.randrange(self.limit)
        return f"sum {a}", {"a": a, "b": b}, a / self.limit

    def prompt(self, state):
        return f"{state['a']} plus {state['b']} ="

    def vocabulary(self):
        return ["add", "is", "plus", "=", *map(str, range(2 * self.limit))]

    def parse(self, scenario, text):
        words = text.split()
        if len(words) != 5 or words[0] != "add" or words[3] != "is" or not all(words[i].isdigit() for i in (1, 2, 4)):
            return None
        return {"add": {"a": int(words[1]), "b": int(words[2])}, "is": {"sum": int(words[4])}}

    def steps_of(self, scenario, text):
        said = self.parse(scenario, text)
        texts = text.split(" is ")
        return said and (
            Step(index=1, title="add", text=texts[0], action=said["add"], reward=0.0),
            Step(index=2, title="is", text=f"is {texts[1]}", action=said["is"], reward=0.0),
        )

    def demonstrate(self, scenario, rng, habits, feedback=()):
        a, b = scenario.state["a"], scenario.state["b"]
        right = bool(feedback) or rng.random() < habits.visible
        total = a + b + (0 if right else 1)
        steps = (
            Step(index=1, title="add", text=f"add {a} {b}", action={"a": a, "b": b}, reward=1.0),
            Step(index=2, title="is", text=f"is {total}", action={"sum": total}, reward=1.0),
        )
        return tuple(
            step.model_copy(update={"reward": r}) for step, r in zip(steps, self.judge(scenario, steps), strict=True)
        )

    def judge(self, scenario, steps):
        a, b = scenario.state["a"], scenario.state["b"]
        right = {"add": f"add {a} {b}", "is": f"is {a + b}"}
        return [float(step.text == right.get(step.title)) for step in steps]

    def verify(self, scenario, steps):
        rewards = self.judge(scenario, steps)
        reasons = tuple(f"{s.title}: {s.text!r} is wrong" for s, r in zip(steps, rewards, strict=True) if not r)
        score = sum(rewards) / 2
        return Verdict(
            verifier="sum/process@1",
            score=score,
            passed=score >= self.pass_score,
            gates={"schema": len(steps) == 2},
            criteria={"right": score},
            reasons=reasons,
        )

    def reward(self, scenario, text):
        return Reward(total=0.0, components={})

    def check(self, scenario, text):
        return Check(score=0.0, correct=False, faults=())


@pytest.fixture
def world() -> World:
    return World(
        name="harbour",
        version=1,
        summary="A harbour town.",
        today=10,
        lists={},
        documents=tuple(Document(id=id, title=id, entities=(id,), text=text) for id, text in LORE.items()),
        facts=(Fact(id="f07", entity="mill", attribute="state", value="haunted", valid_from=0, known_by=()),),
        personas=(),
        rules=(),
        quests=(),
        states=(),
        digest="0" * 64,
    )


@pytest.fixture
def trainer(world: World) -> SumTrainer:
    return SumTrainer(world)


@dataclass
class ChatServer:
    """Answers by `answer`: from the request's body and number, the status and the content, or a whole body as bytes."""

    answer: Callable[[dict[str, Any], int], tuple[int, str | bytes]] = lambda body, number: (500, "not set")
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    addressed: set[tuple[str, str]] = field(default_factory=set)
    """Paths and content types of the requests."""
    in_flight: int = 0
    peak: int = 0
    url: str = ""


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    state, lock = ChatServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.requests.append(body)
                state.keys.add(self.headers["Authorization"])
                state.addressed.add((self.path, self.headers["Content-Type"]))
                number = len(state.requests)
                state.in_flight += 1
                state.peak = max(state.peak, state.in_flight)
            try:
                status, content = state.answer(body, number)
            finally:
                with lock:
                    state.in_flight -= 1
            error = {"error": {"message": str(content)}}
            payload = (
                content if isinstance(content, bytes) else completion(content) if status == 200 else encoded(error)
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that no longer waits
                self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def completion(content: str) -> bytes:
    """A chat completion in OpenAI's shape; `cut off` in the content means that it ran into its token limit."""
    choice = {
        "index": 0,
        "finish_reason": "length" if "cut off" in content else "stop",
        "message": {"role": "assistant", "content": content},
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return encoded(
        {"id": "c1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)

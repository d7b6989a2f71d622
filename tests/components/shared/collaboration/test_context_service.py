import random
import socket
import threading

import httpx2
import pytest
import uvicorn

from components.shared.collaboration.context_client import ContextClient
from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.context_service import FRONT_HEADER, Limits, create_app, serve_context
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Split

TOKEN = "token-of-the-test"


class Held:
    """A retriever that answers when it is let go."""

    waits = False

    def __init__(self, retriever):
        self._retriever = retriever
        self.entered, self.go = threading.Semaphore(0), threading.Event()

    def retrieve(self, query, depth):
        self.entered.release()
        self.go.wait(10)
        return self._retriever.retrieve(query, depth)


def listening(app):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    return server, thread, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def serve():
    running = []

    def start(*arguments, **options):
        server, thread, url = listening(create_app(*arguments, **options))
        running.append((server, thread))
        return url

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def retriever(world):
    return ContextRetriever(world)


def test_a_client_sees_what_the_retriever_finds(serve, retriever, trainer):
    client = ContextClient(serve(retriever, TOKEN), TOKEN)
    assert client.retrieve("who rings the bell", 2) == retriever.retrieve("who rings the bell", 2)
    (scenario,) = trainer.scenarios(random.Random(0), 1, [Split.TRAIN])
    scenario = scenario.model_copy(update={"prompt": "the dyke and f07"})
    assert client.for_scenario(scenario, 3) == retriever.for_scenario(scenario, 3) != ()
    mill = client.document("mill")
    assert mill == retriever.document("mill") and client.facts_of(mill) == retriever.facts_of(mill) != ()


def test_one_service_stands_in_front_of_another(serve, retriever):
    behind = serve(retriever, TOKEN)
    front = ContextClient(serve(ContextClient(behind, TOKEN), None))
    assert front.retrieve("orchard", 1) == retriever.retrieve("orchard", 1)


def test_only_the_token_opens_it(serve, retriever):
    url = serve(retriever, TOKEN)
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}, {FRONT_HEADER: TOKEN}):
        for method, path in (("POST", "/v1/context"), ("GET", "/v1/documents/mill")):
            answer = httpx2.request(
                method, url + path, json={"query": "x"} if method == "POST" else None, headers=headers
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert httpx2.get(url + "/healthz").json() == {"status": "ok"}
    with pytest.raises(UsageError, match="refuses the token"):
        ContextClient(url, "wrong").retrieve("x", 1)


def test_behind_a_gateway_its_header_is_the_token(serve, retriever):
    url = serve(retriever, TOKEN, fronted=True)
    asked = {"query": "bell"}
    assert httpx2.post(url + "/v1/context", json=asked, headers={FRONT_HEADER: TOKEN}).status_code == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx2.post(url + "/v1/context", json=asked, headers=bearer).status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"query": "bell", "depth": 51}', 400, "bad_request"),
        (b'{"query": "bell", "depth": 0}', 400, "bad_request"),
        (b'{"query": "bell", "url": "http://169.254.169.254/"}', 400, "bad_request"),
        (b"{}", 400, "bad_request"),
        (b"not json", 400, "bad_request"),
        (b'{"query": "' + b"x" * 9000 + b'"}', 400, "bad_request"),
        (b'{"query": "' + b"x" * 70_000 + b'"}', 413, "too_large"),
    ],
)
def test_a_bad_request_is_refused_in_one_shape(serve, retriever, body, status, code):
    url = serve(retriever, None)
    for content in (body, iter([body[:5], body[5:]])):  # with a length, and in chunks
        headers = {"Content-Type": "application/json"}
        answer = httpx2.post(url + "/v1/context", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"code", "message"}


def test_an_unknown_document_and_an_unknown_path_are_not_found(serve, retriever):
    url = serve(retriever, None)
    for path in ("/v1/documents/bel", "/v1/documents/http%3A%2F%2Fx", "/nowhere"):
        answer = httpx2.get(url + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "no document 'bel' among 6" in httpx2.get(url + "/v1/documents/bel").json()["error"]["message"]
    with pytest.raises(UsageError, match="has no document 'zeppelin'"):
        ContextClient(url).document("zeppelin")


def test_more_requests_at_once_than_it_bears_are_sent_away(serve, retriever):
    held = Held(retriever)
    url = serve(held, None, Limits(in_flight=1))
    first = threading.Thread(target=httpx2.post, args=[url + "/v1/context"], kwargs={"json": {"query": "bell"}})
    first.start()
    held.entered.acquire()
    answer = httpx2.post(url + "/v1/context", json={"query": "bell"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    held.go.set()
    first.join()
    assert httpx2.post(url + "/v1/context", json={"query": "bell"}).status_code == 200


def test_it_describes_itself(serve, retriever):
    paths = httpx2.get(serve(retriever, TOKEN) + "/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/context", "/v1/documents/{id}", "/healthz"}


def test_a_service_out_of_reach_or_of_another_kind_fails_closed(chat_server, serve):
    with pytest.raises(PipelineError, match=r"knowledge base http://127.0.0.1:1 cannot be reached"):
        ContextClient("http://127.0.0.1:1", retries=0).retrieve("x", 1)
    chat_server.answer = lambda body, number: (200, "hello")
    other = ContextClient(chat_server.url)
    with pytest.raises(PipelineError, match="does not answer as POST /v1/context"):
        other.retrieve("x", 1)
    front = serve(ContextClient("http://127.0.0.1:1", retries=0), None)
    assert httpx2.post(front + "/v1/context", json={"query": "x"}).status_code == 503


def test_it_does_not_start_unguarded(monkeypatch):
    monkeypatch.delenv("SRL_RLVR_CONTEXT_TOKEN", raising=False)
    with pytest.raises(UsageError, match="SRL_RLVR_CONTEXT_TOKEN holds no token"):
        serve_context("world:wrackmere")
    with pytest.raises(UsageError, match=r"anonymous requests on 0\.0\.0\.0"):
        serve_context("world:wrackmere", "0.0.0.0", anonymous=True)

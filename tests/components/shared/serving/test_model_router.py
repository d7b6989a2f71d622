"""The router over real sockets: uvicorn in front, a stand-in server a tier behind."""

import asyncio
import contextlib
import io
import json

import aiohttp
import openai
import pytest
import uvicorn
from starlette.requests import ClientDisconnect

from components.shared.contracts.records import Scenario, Split, Tier, Trace
from components.shared.serving.app import HeldStream
from components.shared.serving.router_config import RouterConfig, load_router_config
from components.shared.serving.serve import build_app, serve_router
from components.shared.storage.jsonl import read_jsonl
from components.shared.storage.paths import configs_root

KEY, ADMIN = "k" * 20, "a" * 20
EASY, HARD = "say the bell", "why if not unless must explain 3?"
FLAT = {"gold": [0.8, 0.3], "silver": [0.8, 0.8], "bronze": [0.85, 0.9]}


class Client:
    """A caller of the router."""

    def __init__(self, port, session):
        self.url, self._session = f"http://127.0.0.1:{port}", session

    async def post(self, path, body, key=KEY, **headers):
        auth = {"Authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(self.url + path, data=data, headers={**auth, **headers}) as response:
            return response.status, await response.text(), response.headers

    async def get(self, path, key=KEY):
        async with self._session.get(self.url + path, headers={"Authorization": f"Bearer {key}"}) as response:
            return response.status, await response.text()

    async def chat(self, prompt=EASY, *, model="npc_dialogue", session=None, **more):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 3, **more}
        headers = {"X-Session-Id": session} if session else {}
        return await self.post("/v1/chat/completions", body, **headers)


@pytest.fixture
def route(tiers, table, tmp_path, monkeypatch):
    """Run `body(client, states, dispatcher, log)` against a router over the stand-ins."""
    monkeypatch.setenv("SRL_RLVR_ROUTER_KEY", KEY)
    monkeypatch.setenv("SRL_RLVR_ROUTER_ADMIN_KEY", ADMIN)
    file = tmp_path / "selection.json"

    def run(body, quality=FLAT, **settings):
        file.write_text(table(**quality).model_dump_json())
        server_config = {"kind": "vllm", "url": "http://127.0.0.1:1", "base": "unused"}
        config = RouterConfig.model_validate(
            {
                "tiers": {str(tier): server_config for tier in Tier},
                "selection": file,
                "state": tmp_path / "state",
                "refresh_s": 0.05,
                **settings,
            }
        )
        log = io.StringIO()

        async def main(states, dispatcher):
            app = build_app(config, dispatcher.backends, log)
            server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.005)
            port = server.servers[0].sockets[0].getsockname()[1]
            try:
                async with aiohttp.ClientSession() as session:
                    return await body(Client(port, session), states, dispatcher, log)
            finally:
                server.should_exit = True
                await serving

        return tiers(main)

    return run


def served(states):
    return {str(tier): state.served for tier, state in states.items()}


def decisions(log):
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_easy_prompts_go_to_the_cheap_tier_and_hard_ones_to_a_better_one(route):
    async def body(client, states, _, log):
        for _ in range(3):
            assert (await client.chat(EASY))[2]["x-tier"] == "gold"
        status, text, headers = await client.chat(HARD)
        assert (status, headers["x-tier"]) == (200, "silver")
        reply = json.loads(text)
        assert reply["choices"][0]["message"]["content"] == "silver silver silver"
        assert reply["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        lines = decisions(log)
        assert lines[0]["complexity"] < 0.3 < 0.7 < lines[3]["complexity"]
        assert lines[3]["utility"]["silver"] > lines[3]["utility"]["gold"]
        assert EASY not in log.getvalue() and KEY not in log.getvalue()

    route(body)


def test_a_changed_benchmark_changes_the_routing(route, table, tmp_path):
    async def body(client, states, *_):
        assert (await client.chat(HARD))[2]["x-tier"] == "silver"
        better = table(**{**FLAT, "gold": [0.8, 0.8]})
        (tmp_path / "selection.json").write_text(better.model_dump_json())
        for _ in range(100):
            if (await client.chat(HARD))[2]["x-tier"] == "gold":
                break
            await asyncio.sleep(0.02)
        assert (await client.chat(HARD))[2]["x-tier"] == "gold"
        (tmp_path / "selection.json").write_text("broken")
        await asyncio.sleep(0.1)
        assert (await client.chat(HARD))[2]["x-tier"] == "gold"
        assert 'internal_faults_total{kind="selection"} 1' in (await client.get("/metrics"))[1]

    route(body)


def test_openais_own_client_gets_answers_streams_and_errors(route):
    async def body(client, *_):
        api = openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key=KEY, max_retries=0)
        messages = [{"role": "user", "content": EASY}]
        whole = await api.chat.completions.create(model="npc_dialogue@silver", messages=messages, max_tokens=2)
        assert whole.choices[0].message.content == "silver silver"
        stream = await api.chat.completions.create(
            model="npc_dialogue", messages=messages, max_tokens=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "gold gold"
        assert chunks[-1].usage.completion_tokens == 2
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert "npc_dialogue@gold" in [m.id for m in (await api.models.list()).data]
        with pytest.raises(openai.NotFoundError, match="did you mean 'npc_dialogue'"):
            await api.chat.completions.create(model="npc_dialog", messages=messages)
        with pytest.raises(openai.BadRequestError, match="tools: Extra inputs"):
            await api.chat.completions.create(model="npc_dialogue", messages=messages, tools=[])
        await api.close()

    route(body)


def test_the_router_falls_back_and_says_so_and_gives_503_when_nobody_answers(route):
    async def body(client, states, _, log):
        states[Tier.GOLD].failures = 1
        assert (await client.chat())[2]["x-tier"] == "silver"
        for state in states.values():
            state.failures = 1
        status, text, headers = await client.chat()
        assert (status, headers["Retry-After"]) == (503, "5")
        assert "no tier answered" in json.loads(text)["error"]["message"]
        assert all(state.failures == 0 for state in states.values())  # each was asked once
        first, second = decisions(log)
        assert [hop["outcome"] for hop in first["hops"]] == ["unavailable", "answered"]
        assert second["outcome"] == "unavailable" and len(second["hops"]) == 3

    route(body)


def test_a_stream_that_breaks_ends_in_an_error_and_not_in_done(route, tmp_path):
    async def body(client, states, _, log):
        states[Tier.GOLD].break_stream_after = 1
        status, text, _ = await client.chat(stream=True)
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert status == 200 and json.loads(events[0])["choices"][0]["delta"]["content"] == "gold"
        assert json.loads(events[-1])["error"]["type"] == "server_error"
        assert decisions(log)[-1]["outcome"] == "broken"

    route(body)
    assert not list((tmp_path / "state/traces").iterdir())


def test_a_reader_that_goes_away_frees_the_adapter_and_leaves_no_trace(route, tmp_path):
    async def body(client, states, dispatcher, log):
        states[Tier.GOLD].token_s = 0.05
        turns = [{"role": "user", "content": EASY}]
        body = {"model": "npc_dialogue", "messages": turns, "max_tokens": 200, "stream": True}
        auth = {"Authorization": f"Bearer {KEY}"}
        async with client._session.post(f"{client.url}/v1/chat/completions", json=body, headers=auth) as response:
            await response.content.readline()
        for _ in range(100):
            if decisions(log):
                break
            await asyncio.sleep(0.02)
        assert decisions(log)[-1]["outcome"] == "abandoned"
        assert "in_flight 0.0" in (await client.get("/metrics"))[1]
        assert dispatcher.backends[Tier.GOLD].health.availability == 1.0

    route(body)
    assert not list((tmp_path / "state/traces").iterdir())


def test_a_stream_whose_reader_left_before_it_began_still_gives_back_what_it_holds():
    given_back = []

    async def pieces():
        yield b"never read"

    async def gone(*_):
        raise ConnectionError

    held = contextlib.ExitStack()
    held.callback(given_back.append, "adapter")
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with contextlib.suppress(ClientDisconnect, ConnectionError):
        asyncio.run(HeldStream(pieces(), held)(scope, gone, gone))
    assert given_back == ["adapter"]


def test_cost_caps_exclude_tiers_and_refuse_what_none_can_serve(route):
    async def body(client, states, *_):
        assert (await client.chat(HARD, max_cost_usd=1e-5))[2]["x-tier"] == "gold"
        status, text, _ = await client.chat(HARD, max_cost_usd=1e-9)
        assert status == 429 and "above the cap" in text
        for _ in range(40):
            if (await client.chat(HARD, model="npc_dialogue@bronze"))[0] == 429:
                break
        else:
            pytest.fail("the hourly cap never held")
        assert (await client.chat(HARD))[0] == 200  # a cheaper tier still fits

    route(body, choice={"max_hourly_usd": 0.005})


def test_without_a_valid_key_nothing_is_answered(route):
    async def body(client, states, *_):
        for key in (None, "wrong", ADMIN):
            assert (await client.post("/v1/chat/completions", {}, key=key))[0] == 401
        assert (await client.post("/admin/deploy", {}, key=KEY))[0] == 401
        assert (await client.get("/admin/state", key=ADMIN))[0] == 200
        assert (await client.get("/v1/models", key="wrong"))[0] == 401
        assert served(states) == {"bronze": 0, "silver": 0, "gold": 0}

    route(body)


def test_limits_hold(route):
    async def body(client, states, *_):
        big = await client.chat("x" * 5000)
        assert big[0] == 413
        assert (await client.chat(max_tokens=5))[0] == 400
        assert (await client.post("/v1/chat/completions", b"{"))[0] == 400
        states[Tier.GOLD].first_s = 0.2
        statuses = sorted([status for status, *_ in await asyncio.gather(*(client.chat() for _ in range(3)))])
        assert statuses == [200, 200, 429]
        for _ in range(10):
            status, text, headers = await client.chat()
            if status == 429:
                break
        assert "requests a minute" in text and headers["Retry-After"]

    route(body, limits={"body_bytes": 4096, "max_tokens": 4, "in_flight": 2, "requests_per_minute": 60})


def test_every_served_request_is_a_redacted_trace_scored_where_the_scenario_is_known(route, tmp_path):
    import random

    from components.shared.trainers.trainer_factory import create_trainer

    trainer = create_trainer("npc_dialogue", "wrackmere")
    [scenario] = trainer.scenarios(random.Random(0), 1, [Split.TRAIN])

    async def body(client, *_):
        await client.chat("my mail is bell@tower.example")
        await client.chat(scenario.prompt, stream=True, scenario=scenario.model_dump(mode="json"))
        odd = Scenario.model_validate({**scenario.model_dump(), "prompt": "mail bell@tower.example"})
        await client.chat(odd.prompt, scenario=odd.model_dump(mode="json"))

    route(body, world="wrackmere")
    free, known, personal = read_jsonl(tmp_path / "state/traces/traces-000001.jsonl", Trace)
    assert (free.prompt, free.scenario, free.score) == ("my mail is <email>", None, None)
    assert (known.scenario, known.score) == (scenario, trainer.reward(scenario, known.completion).total)
    assert personal.scenario is None and personal.prompt == "mail <email>"
    assert all(t.latency_ms > 0 and t.model_type == "npc_dialogue" and t.policy == str(t.tier) for t in (free, known))


def test_what_the_router_and_its_layers_answered_is_sent_where_the_night_collects_it(route, tmp_path, monkeypatch):
    import boto3
    from moto import mock_aws

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")

    async def body(client, *_):
        await client.chat("rings the bell at dawn")
        await client.post(
            "/v1/layers", {"model": "npc", "messages": [{"role": "user", "content": "hi"}], "layers": [1]}
        )

    with mock_aws():
        bucket = boto3.resource("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        route(body, traces_to="s3://bucket/traces/served")
        (sent,) = bucket.objects.filter(Prefix="traces/served/")
        lines = sent.get()["Body"].read().splitlines()
    assert [Trace.model_validate_json(line).prompt for line in lines] == ["rings the bell at dawn", "hi"]
    assert not list((tmp_path / "state").rglob("traces-*"))


def test_decision_lines_carry_the_metrics_of_the_catalogue_where_a_namespace_is_named(route, monkeypatch):
    """What the router emits is what the catalogue says of it: names, units, dimensions; an answer outlives a full disk."""
    import random

    from components.shared.monitoring.catalogue import OWN, Emitter
    from components.shared.serving.traces import TraceWriter
    from components.shared.trainers.trainer_factory import create_trainer

    [scenario] = create_trainer("npc_dialogue", "wrackmere").scenarios(random.Random(0), 1, [Split.TRAIN])
    write = TraceWriter.write

    def full(self, **fields):
        if "full" in fields["prompt"]:
            raise OSError(28, "No space left on device")
        return write(self, **fields)

    monkeypatch.setattr(TraceWriter, "write", full)

    async def body(client, states, _, log):
        assert (await client.chat(scenario.prompt, scenario=scenario.model_dump(mode="json")))[0] == 200
        assert (await client.chat("the disk is full"))[0] == 200
        for state in states.values():
            state.failures = 3
        assert (await client.chat(EASY))[0] == 503
        return decisions(log)

    answered, traceless, unanswered = route(body, world="wrackmere", metrics_namespace="SrlRlvr/test")
    emitted = {
        (metric["Name"], metric["Unit"], tuple(names))
        for line in (answered, traceless, unanswered)
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        for names in directive["Dimensions"]
        if directive["Namespace"] == "SrlRlvr/test" and line[metric["Name"]] is not None
    }
    listed = [metric for metric in OWN.values() if metric.emitter == Emitter.ROUTER]
    assert emitted == {(metric.name, metric.unit, names) for metric in listed for names in metric.dimensions}
    assert (answered["Unanswered"], traceless["Unanswered"], unanswered["Unanswered"]) == (0, 0, 1)
    assert (answered["TraceLost"], traceless["TraceLost"]) == (0, 1)
    assert answered["TokenMs"] == pytest.approx(answered["ms"] / answered["tokens"][1])
    assert 0 < answered["ResponseStartMs"] <= answered["ms"] and answered["AnswerUSD"] == answered["usd"] > 0
    assert "Tier" not in unanswered and answered["Tier"] == "gold"


def test_layers_answer_over_http(route):
    async def body(client, states, *_):
        request = {"model": "npc_dialogue", "messages": [{"role": "user", "content": EASY}], "layers": [1, 3, 4]}
        status, text, headers = await client.post("/v1/layers", request)
        assert status == 200
        assert [json.loads(line)["layer"] for line in text.splitlines()] == [1, 3]
        for _ in range(100):
            _, text = await client.get(f"/v1/layers/{headers['x-ticket']}")
            if not json.loads(text)["pending"]:
                break
            await asyncio.sleep(0.01)
        assert [a["layer"] for a in json.loads(text)["answers"]] == [1, 3, 4]
        assert (await client.post("/v1/layers", {**request, "layers": [9]}))[0] == 400

    route(body)


def write_canaries(folder, word, count=3):
    lines = [{"prompt": f"bell {i}", "completion": " ".join([word] * 3), "max_tokens": 3} for i in range(count)]
    (folder / "canary.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def policies(make_adapter):
    """Two sealed adapters with the canary answers that the stand-in will give."""
    from hashlib import sha256

    from components.shared.contracts.stage import ArtifactKind
    from components.shared.storage.artifacts import MANIFEST, read_manifest, seal

    def make(seed):
        folder = make_adapter(seed)
        word = sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:8]
        metadata = read_manifest(folder).metadata
        write_canaries(folder, word)
        (folder / MANIFEST).unlink()
        seal(folder, ArtifactKind.POLICY, metadata)
        return folder, word

    return [make(seed) for seed in (1, 2)]


def deployment(folder, rollout):
    return {"model_type": "npc_dialogue", "tier": "gold", "policy": str(folder), "rollout": rollout}


async def words(client, count=60):
    """Which word each session's answers show."""
    found = {}
    for i in range(count):
        _, text, _ = await client.chat(session=f"s{i}")
        found[f"s{i}"] = json.loads(text)["choices"][0]["message"]["content"].split()[0]
    return found


async def until(check):
    for _ in range(200):
        if await check():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it never came about")


def test_a_rollout_is_sticky_survives_a_restart_and_ends_promoted(route, policies, tmp_path):
    (first, old), (second, new) = policies

    async def begin(client, states, dispatcher, _):
        assert (await client.post("/admin/deploy", deployment(first, False), key=ADMIN))[0] == 200
        assert set((await words(client, 5)).values()) == {old}
        assert (await client.post("/admin/deploy", deployment(second, True), key=ADMIN))[0] == 200
        assert (await client.post("/admin/deploy", deployment(second, True), key=ADMIN))[0] == 400
        found = await words(client)
        assert set(found.values()) == {old, new}
        assert await words(client) == found
        return found

    async def resume(client, states, dispatcher, _):
        async def promoted():
            await words(client, 20)
            state = json.loads((await client.get("/admin/state", key=ADMIN))[1])
            return not state["rollouts"]

        await until(lambda: restored(states))
        assert {old, new} == {word for word, _ in states[Tier.GOLD].adapters.values()}
        await until(promoted)
        assert set((await words(client, 10)).values()) == {new}
        assert [word for word, _ in states[Tier.GOLD].adapters.values()] == [new]

    async def restored(states):
        return len(states[Tier.GOLD].adapters) == 2

    slow = {"shares": [0.5, 1.0], "bake_s": 3600.0}
    route(begin, canary=slow)
    # The restarted router finds a server without adapters, and gives it both back.
    route(resume, canary={**slow, "bake_s": 0.01, "min_requests": 5})


def test_a_challenger_that_fails_is_rolled_back_and_the_champion_goes_on(route, policies):
    (first, old), (second, new) = policies

    async def body(client, states, dispatcher, _):
        await client.post("/admin/deploy", deployment(first, False), key=ADMIN)
        await client.post("/admin/deploy", deployment(second, True), key=ADMIN)
        [bad] = [name for name, (word, _) in states[Tier.GOLD].adapters.items() if word == new]
        del states[Tier.GOLD].adapters[bad]  # it answers 404 from now on, until the router gives it back

        async def gone():
            await words(client, 20)
            return not json.loads((await client.get("/admin/state", key=ADMIN))[1])["rollouts"]

        await until(gone)
        assert set((await words(client)).values()) == {old}

    route(body, canary={"shares": [0.5, 1.0], "min_error_requests": 5, "bake_s": 3600.0}, refresh_s=0.5)


def test_the_shipped_configuration_is_the_specifications():
    config = load_router_config(configs_root() / "serving" / "router.yaml")
    choice, health = config.choice, config.health
    assert (choice.quality, choice.cost, choice.latency, choice.availability) == (0.4, 0.25, 0.2, 0.15)
    assert (health.max_failures, health.cool_down_s) == (5, 60)
    assert (config.canary.shares, config.canary.bake_s, config.canary.max_error_rate) == (
        (0.05, 0.25, 0.5, 1.0),
        900,
        0.1,
    )
    assert set(config.tiers) == set(Tier) and not config.anonymous


def test_a_router_that_must_not_be_served_is_not(tmp_path, monkeypatch):
    from components.shared.contracts.errors import UsageError

    file = tmp_path / "router.yaml"
    file.write_text("tiers: {gold: {kind: in_process, base: x}}\nselection: y\nanonymous: true\n")
    with pytest.raises(UsageError, match=r"anonymous requests on 0\.0\.0\.0"):
        serve_router(file, "0.0.0.0", 0)
    file.write_text("tiers: {gold: {kind: in_process, base: x}}\nselection: y\nlimitz: {}\n")
    with pytest.raises(UsageError, match="did you mean 'limits'"):
        serve_router(file, "127.0.0.1", 0)

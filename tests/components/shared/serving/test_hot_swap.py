"""Contract tests of the adapter over real sockets: vLLM's API, its faults, and swaps under load."""

import asyncio
import contextlib
import json
from hashlib import sha256

import numpy as np
import pytest

from components.shared.contracts.errors import GateError, UsageError
from components.shared.serving.adapters import AdapterStore
from components.shared.serving.canary_prompts import CanaryPrompt, read_canaries
from components.shared.serving.hot_swap import Aliases, HotSwap
from components.shared.serving.srl_model_adapter import Unavailable, ask
from components.shared.serving.vllm_server import VLLMServer

ALIAS = "npc_dialogue@gold"


def word(adapter) -> str:
    return sha256((adapter.folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:8]


def canaries(adapter, count=3):
    return [
        CanaryPrompt(prompt=f"bell {i}", completion=" ".join([word(adapter)] * 3), max_tokens=3) for i in range(count)
    ]


@pytest.fixture
def adapters(make_adapter, base, tmp_path):
    store = AdapterStore(tmp_path / "store")
    return [store.add(make_adapter(seed), "npc_dialogue", base) for seed in range(4)]


@pytest.fixture
def serve(stand_in, base):
    """Run `body(state, server, swapper)` against the stand-in."""

    def run(body, aliases=None, *, state=None, **options):
        async def main():
            stand_in_state = state or stand_in.StandIn()
            runner, port = await stand_in.listen(stand_in_state.app())
            server = VLLMServer(f"http://127.0.0.1:{port}", base, key=stand_in_state.key, **options)
            try:
                return await body(stand_in_state, server, HotSwap(server, aliases or Aliases(), drain_timeout_s=5))
            finally:
                await server.close()
                await runner.cleanup()

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("chat", [True, False])
def test_load_generate_stream_list_unload(serve, adapters, chat):
    async def body(state, server, _):
        await server.health()
        await server.load(adapters[0])
        await server.load(adapters[0])  # a name that is resident is that adapter
        assert await server.list_adapters() == {adapters[0].name}
        answer = await server.generate(adapters[0].name, ask("the bell", 3))
        assert answer.text == " ".join([word(adapters[0])] * 3)
        assert (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == (2, 3, "length")
        deltas = [delta async for delta in server.stream(adapters[0].name, ask("the bell", 3))]
        assert "".join(d.text for d in deltas) == answer.text
        assert (deltas[-1].finish_reason, deltas[-1].completion_tokens) == ("length", 3)
        assert ("messages" in state.seen[-1]) == chat
        await server.unload(adapters[0].name)
        await server.unload(adapters[0].name)
        assert await server.list_adapters() == frozenset()
        with pytest.raises(Unavailable, match="404"):
            await server.generate(adapters[0].name, ask("the bell", 3))
        with pytest.raises(UsageError, match="400"):
            await server.generate("base", ask("the bell", 5000))

    serve(body, chat=chat)


def test_a_key_is_sent_and_a_wrong_one_makes_the_server_unavailable(serve, stand_in, base):
    async def body(_, server, __):
        assert (await server.generate("base", ask("x", 1))).text == "base"
        stranger = VLLMServer(server._url, base, key="wrong")
        with pytest.raises(Unavailable, match="401"):
            await stranger.generate("base", ask("x", 1))
        await stranger.close()

    serve(body, state=stand_in.StandIn(key="secret"))


def test_a_lost_response_is_not_a_lost_load(serve, adapters):
    async def body(state, server, _):
        state.lose_load_response = state.lose_unload_response = True
        await server.load(adapters[0])
        assert await server.list_adapters() == {adapters[0].name}
        await server.unload(adapters[0].name)
        assert await server.list_adapters() == frozenset()

    serve(body)


def test_a_cut_stream_is_an_error_and_not_a_short_answer(serve):
    async def body(state, server, _):
        state.break_stream_after = 2
        stream = server.stream("base", ask("x", 5))
        texts = []
        with pytest.raises(Unavailable):
            while True:
                texts.append((await anext(stream)).text)
        assert "base base".startswith("".join(texts))

    serve(body)


def test_a_swap_flips_the_alias_and_takes_the_old_adapter_out(serve, adapters, tmp_path):
    async def body(state, _, swapper):
        first = await swapper.swap(ALIAS, adapters[0], canaries(adapters[0]))
        second = await swapper.swap(ALIAS, adapters[1], canaries(adapters[1]))
        assert (first.old, second.old, second.unloaded) == (None, adapters[0].name, True)
        assert set(state.adapters) == {adapters[1].name}
        await swapper.swap("challenger", adapters[2], canaries(adapters[2]))
        await swapper.swap(ALIAS, adapters[2], canaries(adapters[2]))  # promoted: loaded once, kept
        assert await swapper.withdraw("challenger")
        assert set(state.adapters) == {adapters[2].name}
        state.adapters.clear()  # the server restarts
        await swapper.restore(adapters)
        assert set(state.adapters) == {adapters[2].name}

    file = tmp_path / "aliases.json"
    serve(body, Aliases(file))
    assert Aliases(file).table == {ALIAS: adapters[2].name}


def test_canary_prompts_are_read_from_an_evaluations_report(tmp_path):
    sample = {"step": 0, "prompt": "the bell", "faults": [], "candidate": "rings", "champion": "falls"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    assert read_canaries(tmp_path) == (CanaryPrompt(prompt="the bell", completion="rings", max_tokens=128),)
    assert read_canaries(tmp_path, role="champion")[0].completion == "falls"
    with pytest.raises(UsageError, match="no answers of 'student'"):
        read_canaries(tmp_path, role="student")
    with pytest.raises(UsageError, match="holds no canary prompts"):
        read_canaries(tmp_path / "absent")


def break_file(state, adapter):
    weights = adapter.folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"\x08")
    return canaries(adapter)


def answer_otherwise(state, adapter):
    return [CanaryPrompt(prompt="bell", completion="ding dong", max_tokens=2)]


def fail_while_warming(state, adapter):
    state.failures = 1
    return canaries(adapter)


def load_too_slowly(state, adapter):
    state.slow_load_s = 0.3
    return canaries(adapter)


def no_prompts(state, adapter):
    return []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (break_file, Unavailable),
        (answer_otherwise, GateError),
        (fail_while_warming, Unavailable),
        (load_too_slowly, Unavailable),
        (no_prompts, GateError),
    ],
)
def test_at_any_failure_the_old_adapter_keeps_serving(serve, adapters, fault, error):
    async def body(state, server, swapper):
        await swapper.swap(ALIAS, adapters[0], canaries(adapters[0]))
        prompts = fault(state, adapters[1])
        with pytest.raises(error):
            await swapper.swap(ALIAS, adapters[1], prompts)
        assert swapper.aliases.target(ALIAS) == adapters[0].name
        assert set(state.adapters) == {adapters[0].name}
        with swapper.aliases.lease(ALIAS) as name:
            assert (await server.generate(name, ask("bell", 1))).text == word(adapters[0])
        state.slow_load_s = 0.0
        await swapper.swap(ALIAS, adapters[2], canaries(adapters[2]))
        assert set(state.adapters) == {adapters[2].name}

    serve(body, load_timeout_s=0.2)


def test_a_request_that_outlives_the_drain_keeps_its_adapter(serve, adapters):
    async def body(state, server, swapper):
        swapper._drain_timeout_s = 0.01
        await swapper.swap(ALIAS, adapters[0], canaries(adapters[0]))
        with swapper.aliases.lease(ALIAS) as name:
            report = await swapper.swap(ALIAS, adapters[1], canaries(adapters[1]))
            assert not report.unloaded
            assert (await server.generate(name, ask("bell", 1))).text == word(adapters[0])
        await swapper.swap(ALIAS, adapters[2], canaries(adapters[2]))
        assert set(state.adapters) == {adapters[2].name}

    serve(body)


@pytest.mark.slow
def test_100_swaps_under_load_lose_no_request_and_mix_no_answer(serve, stand_in, adapters, tmp_path):
    async def body(state, server, swapper):
        await swapper.swap(ALIAS, adapters[0], canaries(adapters[0]))
        words = {adapter.name: word(adapter) for adapter in adapters}
        answers, failures = [], []

        async def client(number):
            while True:
                with swapper.aliases.lease(ALIAS) as name:
                    try:
                        if number % 2:
                            text = (await server.generate(name, ask("bell", 5))).text
                        else:
                            text = "".join([d.text async for d in server.stream(name, ask("bell", 5))])
                        answers.append((name, text))
                    except Unavailable as error:
                        failures.append(error)

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        reports = []
        for turn in range(1, 101):
            adapter = adapters[turn % len(adapters)]
            reports.append(await swapper.swap(ALIAS, adapter, canaries(adapter)))
        for task in clients:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert failures == []
        assert len(answers) > 300
        assert {name for name, _ in answers} == set(words)
        assert all(text == " ".join([words[name]] * 5) for name, text in answers)
        p95 = float(np.quantile([report.swap_ms for report in reports], 0.95))
        print(f"{len(answers)} answers during 100 swaps, swap p95 {p95:.1f} ms")
        assert p95 <= 100

    serve(body, Aliases(tmp_path / "aliases.json"), state=stand_in.StandIn(token_s=0.001, slow_load_s=0.005))

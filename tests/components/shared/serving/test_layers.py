import asyncio
import time

import pytest

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier, Trace
from components.shared.serving.dispatch import HopOutcome
from components.shared.serving.layers import LayerPipeline, LayersConfig, load_layers
from components.shared.serving.srl_model_adapter import ask
from components.shared.serving.traces import TraceWriter
from components.shared.storage.jsonl import read_jsonl
from components.shared.storage.paths import configs_root


@pytest.fixture
def config():
    return load_layers(configs_root() / "serving" / "layers.yaml")


async def collect(run):
    return {answer.layer: answer async for answer in run.answers()}


def test_the_four_layers_are_the_specifications(config):
    tiers = {number: layer.tiers[0] for number, layer in config.layers.items()}
    assert tiers == {1: Tier.GOLD, 2: Tier.SILVER, 3: Tier.SILVER, 4: Tier.BRONZE}
    assert [number for number, layer in config.layers.items() if layer.background] == [4]


def test_a_request_for_layer_1_asks_gold_alone(tiers, config):
    async def body(states, dispatcher):
        answers = await collect(LayerPipeline(config, dispatcher).start("npc", ask("hello", 2), [1]))
        assert answers[1].text == "gold gold"
        assert [state.served for state in states.values()] == [0, 0, 1]

    tiers(body)


def test_layer_1_is_handed_out_before_slower_layers_and_a_background_layer_later(tiers, config):
    async def body(states, dispatcher):
        states[Tier.SILVER].first_s, states[Tier.BRONZE].first_s = 0.2, 0.6
        pipeline = LayerPipeline(config, dispatcher)
        started = time.perf_counter()
        run = pipeline.start("npc", ask("hello", 1), [1, 2, 3, 4])
        answers = run.answers()
        assert (await anext(answers)).layer == 1
        assert time.perf_counter() - started < 0.2
        assert [a.layer async for a in answers] == [2, 3]
        assert run.pending == [4]
        while pipeline.run(run.ticket).pending:
            await asyncio.sleep(0.02)
        assert [a.text for a in pipeline.run(run.ticket).fetch()] == ["gold", "silver", "silver", "bronze"]
        heard = states[Tier.BRONZE].seen[0]["messages"]
        assert [m["content"] for m in heard] == ["foundation: gold", "hello"]

    tiers(body)


def test_a_tier_that_fails_or_is_slow_is_followed_by_the_fallback_and_the_trace_says_who_answered(tiers, config):
    async def body(states, dispatcher):
        states[Tier.GOLD].failures = 1
        states[Tier.SILVER].first_s = 2.0
        layers = {n: layer.model_copy(update={"timeout_ms": 150}) for n, layer in config.layers.items()}
        pipeline = LayerPipeline(LayersConfig(layers=layers), dispatcher)
        run = pipeline.start("npc", ask("hello", 1), [1, 3])
        answers = await collect(run)
        assert [h.outcome for h in answers[1].hops] == [HopOutcome.UNAVAILABLE, HopOutcome.TIMEOUT]
        assert answers[1].text is None and "no tier answered" in answers[1].fault
        assert [(h.tier, h.outcome) for h in answers[3].hops] == [
            (Tier.SILVER, HopOutcome.TIMEOUT),
            (Tier.GOLD, HopOutcome.ANSWERED),
        ]

    tiers(body)


def test_every_layers_answer_is_a_trace(tiers, config, tmp_path):
    async def body(_, dispatcher):
        traces = TraceWriter(tmp_path)
        await collect(LayerPipeline(config, dispatcher, traces).start("npc", ask("mail bell@tower.example", 1), [1, 3]))
        traces.close()

    tiers(body)
    first, second = read_jsonl(tmp_path / "traces-000001.jsonl", Trace)
    assert (first.tier, first.prompt, first.completion) == (Tier.GOLD, "mail <email>", "gold")
    assert (second.tier, second.prompt) == (Tier.SILVER, "foundation: gold mail <email>")


def test_an_answer_outlives_a_full_disk_and_its_trace_is_counted_as_lost(tiers, config, tmp_path):
    class Full(TraceWriter):
        def write(self, **_):
            raise OSError(28, "No space left on device")

    lost = []

    async def body(_, dispatcher):
        pipeline = LayerPipeline(config, dispatcher, Full(tmp_path), lambda: lost.append(1))
        return await collect(pipeline.start("npc", ask("hello", 1), [1]))

    assert tiers(body)[1].text == "gold" and lost == [1]


def test_unknown_layers_and_none_and_old_tickets_are_refused(tiers, config):
    async def body(_, dispatcher):
        pipeline = LayerPipeline(config, dispatcher)
        with pytest.raises(UsageError, match="unknown layer '7'"):
            pipeline.start("npc", ask("x", 1), [7])
        with pytest.raises(UsageError, match="no layer"):
            pipeline.start("npc", ask("x", 1), [])
        with pytest.raises(UsageError, match="ticket"):
            pipeline.run("old")

    tiers(body)


def test_a_layer_may_not_read_a_background_layer_or_a_later_one(config):
    layers = {number: layer.model_dump() for number, layer in config.layers.items()}
    layers[1]["reads"] = (4,)
    with pytest.raises(ValueError, match="layer 1 reads 4"):
        LayersConfig.model_validate({"layers": layers})

"""Measuring a real policy behind a real server."""

import asyncio
import subprocess
import sys

import pytest

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Split, Tier
from components.shared.contracts.selection import Measured
from components.shared.selection.refresh import read_measured
from components.shared.selection.serving_measurement import Subject, measure, stored_parameters
from components.shared.serving.in_process_server import InProcessServer
from components.shared.serving.srl_model_adapter import Answer, ModelServer
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.jsonl import write_jsonl


def subject(policy="p"):
    return Subject(
        model_type="npc_dialogue", tier=Tier.GOLD, policy=policy, base_model="tiny", parameters=10_000, instance="local"
    )


def test_a_real_policy_is_measured(npc_dataset, npc_policy_folder):
    prompts = [s.prompt for s in npc_dataset.scenarios(Split.VALIDATION)]
    digest = read_manifest(npc_policy_folder).digest

    async def run():
        server = InProcessServer(npc_policy_folder, "tiny")
        try:
            return await measure(server, "tiny", prompts, subject(digest), max_tokens=16)
        finally:
            await server.close()

    found = asyncio.run(run())
    assert (found.policy, found.samples) == (digest, len(prompts))
    assert 1 < found.completion_tokens <= 16
    assert found.first_token_ms > 0 and found.token_ms > 0
    # One request at a time: the machine writes no faster than one request does.
    assert found.output_tokens_per_s < 1.5 * 1000 / found.token_ms


def test_the_command_measures_a_policy_on_held_out_prompts(npc_dataset, npc_policy_folder, tmp_path, monkeypatch):
    dataset = tmp_path / "dataset"
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path / "runs"))
    write_jsonl(dataset / "scenarios" / "test.jsonl", npc_dataset.scenarios(Split.VALIDATION))
    router = tmp_path / "router.yaml"
    router.write_text("tiers: {gold: {kind: in_process, base: x, model: tiny}}\nselection: selection.json\n")
    arguments = [
        "--model-type",
        "npc_dialogue",
        "--dataset",
        dataset,
        "--policy",
        npc_policy_folder,
        "--router",
        router,
    ]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "measure", "gold", *arguments]
    command += ["--prompts", "3", "--max-tokens", "8"]

    def run(*more):
        return subprocess.run(list(map(str, [*command, *more])), capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    (found,) = read_measured([str(tmp_path / "runs" / "serving" / "measured")])
    assert (found.policy, found.samples) == (read_manifest(npc_policy_folder).digest, 3)
    assert found.parameters == stored_parameters(npc_policy_folder) > 1000
    refused = run("--out", router)
    assert refused.returncode == 2 and "is a file: measurements are added to a folder" in refused.stderr
    assert Measured.model_validate_json(refused.stdout).policy == found.policy, "what was measured is not lost"


class Paced(ModelServer):
    """Takes 20 ms for the prompt and 2 ms a token."""

    async def generate(self, model, request):
        await asyncio.sleep(0.02 + 0.002 * (request.max_tokens - 1))
        tokens = request.max_tokens
        return Answer(model=model, text="x", finish_reason="length", prompt_tokens=30, completion_tokens=tokens)

    async def load(self, adapter): ...

    async def unload(self, name): ...

    async def list_adapters(self):
        return frozenset()

    async def health(self): ...


def test_the_prompts_time_and_the_tokens_are_told_apart():
    found = asyncio.run(measure(Paced(), "m", ["a"] * 8, subject(), max_tokens=41, concurrency=4))
    # A busy machine can only be slower than the pace that the server keeps.
    assert found.first_token_ms >= 19
    assert found.token_ms >= 1.5
    # Four in flight, 41 tokens each, in a tenth of a second or more.
    assert found.output_tokens_per_s <= 4 * 41 / 0.09
    assert found.completion_tokens == 41


def test_nothing_to_measure_is_refused():
    with pytest.raises(GateError, match="no prompts"):
        asyncio.run(measure(Paced(), "m", [], subject(), max_tokens=4))
    with pytest.raises(GateError, match="longer than a token"):
        asyncio.run(measure(Paced(), "m", ["a"], subject(), max_tokens=1))

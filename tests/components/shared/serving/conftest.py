"""A served base policy, LoRA adapters on it, and the stand-in for vLLM."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.adapters import ServedBase
from components.shared.storage.artifacts import read_manifest, seal


def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stand_in():
    """The module of the stand-in: StandIn and listen."""
    return _module("vllm_stand_in")


@pytest.fixture
def base_folder(tmp_path):
    """A sealed base without weights: enough for a server elsewhere that has its own."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"words": ["the", "bell"]}')
    seal(folder, ArtifactKind.POLICY)
    return folder


@pytest.fixture
def base(base_folder):
    return ServedBase.of(base_folder, "base", max_rank=16)


@pytest.fixture
def make_adapter(tmp_path, base_folder):
    """Write a sealed LoRA folder; every seed is another adapter."""

    def make(seed: int, *, rank: int = 4, said_rank: int | None = None, base: str | None = None, **files: str) -> Path:
        from safetensors.numpy import save_file

        folder = tmp_path / f"adapter{seed}-{rank}"
        folder.mkdir()
        rng = np.random.default_rng(seed)
        tensors = {}
        for module, (rows, columns) in {"self_attn.q_proj": (8, 8), "mlp.down_proj": (8, 16)}.items():
            prefix = f"base_model.model.model.layers.0.{module}"
            tensors[f"{prefix}.lora_A.weight"] = rng.normal(size=(rank, columns)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": said_rank or rank, "lora_alpha": 2 * rank}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_bytes((base_folder / "tokenizer.json").read_bytes())
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        metadata = {"model_type": "npc_dialogue", "rank": said_rank or rank}
        seal(folder, ArtifactKind.POLICY, {**metadata, "base": base or read_manifest(base_folder).digest})
        return folder

    return make


@pytest.fixture
def tiers(stand_in, base, tmp_path):
    """Run `body(states, dispatcher)` with a stand-in server a tier, whose answers name the tier."""
    import asyncio
    from dataclasses import replace

    from components.shared.contracts.records import Tier
    from components.shared.serving.dispatch import Backend, Dispatcher
    from components.shared.serving.health import Health
    from components.shared.serving.hot_swap import Aliases
    from components.shared.serving.vllm_server import VLLMServer

    def run(body, clock=None):
        async def main():
            states = {tier: stand_in.StandIn(model=str(tier)) for tier in Tier}
            listening = {tier: await stand_in.listen(state.app()) for tier, state in states.items()}
            health = {"clock": clock} if clock else {}
            backends = {
                tier: Backend(
                    server=VLLMServer(f"http://127.0.0.1:{port}", replace(base, name=str(tier)), timeout_s=5),
                    aliases=Aliases(tmp_path / "state" / f"aliases-{tier}.json"),
                    health=Health(**health),
                )
                for tier, (_, port) in listening.items()
            }
            try:
                return await body(states, Dispatcher(backends))
            finally:
                for backend in backends.values():
                    await backend.server.close()
                for runner, _ in listening.values():
                    await runner.cleanup()

        return asyncio.run(main())

    return run


@pytest.fixture
def table():
    """A selection table of one model type, whose tiers' quality the test gives by complexity."""
    from components.shared.contracts.records import Tier
    from components.shared.contracts.selection import Benchmark, SelectionTable
    from components.shared.serving.complexity import calibrate

    prices = {Tier.GOLD: 0.1, Tier.SILVER: 1.0, Tier.BRONZE: 30.0}
    texts = [f"say the bell {i}" for i in range(20)] + [f"why if not {i} unless must explain {i}?" for i in range(20)]
    calibration = calibrate("npc_dialogue", texts, [False] * 20 + [True] * 20)

    def make(accepted_by="gate", **quality):
        benchmarks = [
            Benchmark(
                model_type="npc_dialogue",
                tier=tier,
                trainer="npc_dialogue",
                base_model=str(tier),
                policy="0" * 64,
                quality=sum(quality[tier]) / len(quality[tier]),
                quality_low=0.0,
                samples=100,
                quality_by_complexity=tuple(quality[tier]),
                usd_per_million_input_tokens=price,
                usd_per_million_output_tokens=3 * price,
                first_token_ms=20.0,
                token_ms=2.0 * price**0.5,
                completion_tokens=40.0,
            )
            for tier, price in prices.items()
            if tier in quality
        ]
        return SelectionTable(benchmarks=tuple(benchmarks), calibrations=(calibration,), accepted_by=accepted_by)

    return make

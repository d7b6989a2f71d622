"""The contract against a real vLLM, opt-in.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve BASE --served-model-name base --enable-lora --max-lora-rank 16
    SRL_RLVR_VLLM_URL=http://127.0.0.1:8000 SRL_RLVR_VLLM_BASE=BASE pytest tests/components/shared/serving/test_vllm_real.py

BASE is a sealed policy folder on the machine that vLLM runs on.
"""

import asyncio
import os
from pathlib import Path

import pytest

from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.adapters import Adapter, AdapterStore, ServedBase
from components.shared.serving.canary_prompts import CanaryPrompt
from components.shared.serving.hot_swap import Aliases, HotSwap
from components.shared.serving.srl_model_adapter import Unavailable, ask
from components.shared.serving.vllm_server import VLLMServer
from components.shared.storage.artifacts import read_manifest, seal

URL, BASE = os.environ.get("SRL_RLVR_VLLM_URL"), os.environ.get("SRL_RLVR_VLLM_BASE")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (URL and BASE), reason="set SRL_RLVR_VLLM_URL and SRL_RLVR_VLLM_BASE to a real vLLM's"),
]
PROMPT = "the bell rings"


@pytest.fixture
def lora(tmp_path):
    """Random LoRA adapters on the base, sealed and stored."""
    import torch
    from peft import LoraConfig, get_peft_model

    from components.shared.training.policies import Policy, load_policy, save_policy

    base = ServedBase.of(Path(BASE), "base", max_rank=16)
    store = AdapterStore(tmp_path / "store")

    def make(seed) -> Adapter:
        torch.manual_seed(seed)
        policy = load_policy(Path(BASE))
        config = LoraConfig(r=8, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        folder = tmp_path / f"lora{seed}"
        folder.mkdir()
        save_policy(Policy(model=get_peft_model(policy.model, config), tokenizer=policy.tokenizer), folder)
        seal(folder, ArtifactKind.POLICY, {"base": read_manifest(Path(BASE)).digest, "rank": 8})
        return store.add(folder, "npc_dialogue", base)

    return make


def test_adapters_load_answer_stream_swap_and_unload(lora):
    one, other = lora(1), lora(2)

    async def main():
        server = VLLMServer(URL, ServedBase.of(Path(BASE), "base", max_rank=16), chat=False)
        swapper = HotSwap(server, Aliases())
        await server.health()
        for adapter in (one, other):
            await server.load(adapter)
            await server.load(adapter)
            assert adapter.name in await server.list_adapters()
            answer = await server.generate(adapter.name, ask(PROMPT, 8))
            pieces = [delta async for delta in server.stream(adapter.name, ask(PROMPT, 8))]
            assert "".join(piece.text for piece in pieces) == answer.text
            assert pieces[-1].completion_tokens == answer.completion_tokens
            recorded = [CanaryPrompt(prompt=PROMPT, completion=answer.text, max_tokens=8)]
            await swapper.swap("npc_dialogue@gold", adapter, recorded)
        assert one.name not in await server.list_adapters()
        weights = one.folder / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(b"broken")
        with pytest.raises(Unavailable):
            await server.load(one)
        with pytest.raises(Unavailable, match="404"):
            await server.generate(one.name, ask(PROMPT, 8))
        await server.unload(other.name)
        assert await server.list_adapters() == frozenset()
        await server.close()

    asyncio.run(main())

import asyncio

import pytest
import torch
from peft import LoraConfig, get_peft_model

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.adapters import AdapterStore
from components.shared.serving.hot_swap import Aliases, HotSwap
from components.shared.serving.in_process_server import InProcessServer, record_canaries
from components.shared.serving.srl_model_adapter import Unavailable, ask
from components.shared.storage.artifacts import read_manifest, seal
from components.shared.training.policies import Policy, encode_prompts, load_policy, save_policy

PROMPTS = ["the bell", "say yes ;", "at dawn the bell rings"]


@pytest.fixture
def policy_folder(tiny_policy, tmp_path):
    """The tiny policy, sealed."""
    folder = tmp_path / "policy"
    folder.mkdir()
    save_policy(tiny_policy, folder)
    seal(folder, ArtifactKind.POLICY)
    return folder


@pytest.fixture
def lora(policy_folder, tmp_path):
    """Two random LoRA adapters on the tiny policy, sealed, with their canary answers."""

    def make(seed):
        torch.manual_seed(seed)
        policy = load_policy(policy_folder)
        config = LoraConfig(r=2, lora_alpha=2000, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        adapted = Policy(model=get_peft_model(policy.model, config), tokenizer=policy.tokenizer)
        folder = tmp_path / f"lora{seed}"
        folder.mkdir()
        save_policy(adapted, folder)
        seal(folder, ArtifactKind.POLICY, {"base": read_manifest(policy_folder).digest, "rank": 2})
        return folder, record_canaries(adapted, PROMPTS, 6)

    return make


def test_a_policy_that_was_trained_in_padded_batches_is_taken_beside_its_base(policy_folder, tmp_path):
    policy = load_policy(policy_folder)
    encode_prompts(policy, PROMPTS)
    folder = tmp_path / "trained"
    folder.mkdir()
    save_policy(policy, folder)
    seal(folder, ArtifactKind.POLICY)
    texts = [(each / "tokenizer.json").read_text() for each in (folder, policy_folder)]
    assert texts[0] != texts[1], "the file keeps how the tokenizer padded last"
    server = InProcessServer(policy_folder, "tiny")
    added = AdapterStore(tmp_path / "store").add(folder, "npc_dialogue", server.base)
    assert added.digest == read_manifest(folder).digest


def test_adapters_and_whole_policies_answer_as_they_did_where_they_were_trained(policy_folder, lora, tmp_path):
    server = InProcessServer(policy_folder, "tiny", max_rank=8)
    store = AdapterStore(tmp_path / "store")
    (one, ours), (other, theirs) = lora(1), lora(2)
    assert [c.completion for c in ours] != [c.completion for c in theirs]
    loras = [store.add(folder, "npc_dialogue", server.base) for folder in (one, other)]
    whole = store.add(policy_folder, "npc_dialogue", server.base)
    plain = record_canaries(load_policy(policy_folder), PROMPTS, 6)

    async def main():
        swapper = HotSwap(server, Aliases())
        for adapter, canaries in ((loras[0], ours), (loras[1], theirs), (loras[0], ours), (whole, plain)):
            await swapper.swap("a", adapter, canaries)
            assert await server.list_adapters() == {adapter.name}
        answer = await server.generate("tiny", ask(PROMPTS[0], 6))
        assert answer.text == plain[0].completion  # no trace of an adapter is left on the base
        assert (answer.model, answer.prompt_tokens) == ("tiny", 2)
        await server.load(loras[0])
        assert (await server.generate("tiny", ask(PROMPTS[0], 6))).text == plain[0].completion
        with pytest.raises(Unavailable, match="no model 'absent'"):
            await server.generate("absent", ask("the bell", 3))
        with pytest.raises(UsageError, match="top_p"):
            request = ask("the bell", 3)
            await server.generate("tiny", type(request)(messages=request.messages, max_tokens=3, top_p=0.5))
        await server.close()

    asyncio.run(main())


def test_an_altered_base_is_refused(policy_folder):
    (policy_folder / "config.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match="does not match its manifest"):
        InProcessServer(policy_folder, "tiny")

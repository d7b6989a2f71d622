from pathlib import Path

import numpy as np
import pytest

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.serving.adapters import AdapterStore, check
from components.shared.serving.trtllm_lora import lora_tensors, task_id


def test_an_adapters_name_and_whole_path_carry_its_content(make_adapter, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = AdapterStore(Path("store"))
    one, other = (store.add(make_adapter(seed), "npc_dialogue", base) for seed in (1, 2))
    assert one.name == f"npc-dialogue-{one.digest[:12]}" == one.folder.name
    assert one.folder == tmp_path / "store" / one.name  # what another process can open
    assert one.name != other.name
    assert one.rank == 4
    assert store.add(make_adapter(1, rank=3), "npc_dialogue", base).name != one.name


def test_a_stored_adapter_that_changed_on_disk_is_refused(make_adapter, base, tmp_path):
    store = AdapterStore(tmp_path / "store")
    adapter = store.add(make_adapter(1), "npc_dialogue", base)
    weights = adapter.folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptArtifact, match="does not match its manifest"):
        store.get(adapter.name, "npc_dialogue", base)
    store.remove(adapter.name)
    assert not adapter.folder.exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base": "f" * 64}, UsageError, "was trained on base ffffffffffff"),
        ({"rank": 32}, UsageError, "rank 32, base takes 16"),
        ({"said_rank": 8}, CorruptArtifact, "says rank 4, adapter_config.json says 8"),
        ({"adapter_model__bin": "pickled"}, UsageError, "only safetensors"),
    ],
)
def test_what_a_server_must_not_be_sent_is_refused(make_adapter, base, options, error, message):
    with pytest.raises(error, match=message):
        check(make_adapter(1, **options), "npc_dialogue", base)


def test_another_tokenizer_or_model_type_is_refused(make_adapter, base, base_folder):
    folder = make_adapter(1)
    with pytest.raises(UsageError, match="becomes a folder"):
        check(folder, "../../npc", base)
    with pytest.raises(UsageError, match="for npc_dialogue, not for story_generation"):
        check(folder, "story_generation", base)
    (base_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="another tokenizer"):
        check(make_adapter(2), "npc_dialogue", base)
    (base_folder / "tokenizer.json").write_text("[]")
    with pytest.raises(CorruptArtifact, match="is no tokenizer"):
        check(make_adapter(3), "npc_dialogue", base)


def test_tensorrt_tensors_give_the_same_update_as_peft(make_adapter):
    from safetensors.numpy import load_file

    folder = make_adapter(3)
    weights, config = lora_tensors(folder)
    assert weights.shape == (1, 2, 4 * (8 + 16)) and weights.dtype == np.float16
    assert config.tolist() == [[[6, 0, 4], [1, 0, 4]]]  # down_proj, then q_proj, of layer 0
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    expected = 2.0 * tensors[f"{prefix}B.weight"] @ tensors[f"{prefix}A.weight"]
    row = weights[0, 1].astype(np.float32)
    assert np.allclose(row[32:64].reshape(8, 4) @ row[:32].reshape(4, 8), expected, atol=0.05)
    assert not row[64:].any()


def test_a_task_id_is_never_zero_and_fits_a_signed_number():
    assert task_id("0" * 64) == 1
    assert 0 < task_id("f" * 64) < 2**63

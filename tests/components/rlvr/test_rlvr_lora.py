"""RLVR with an adapter, by every algorithm: anchored to the SRL policy without a second copy of it, merged at the end."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.rlvr.run import run
from components.rlvr.spec import RLVRConfig
from components.shared.contracts.environment import CHECKPOINT_STEPS, CHECKPOINTS
from components.shared.training.grpo.settings import Algorithm

SMALL = {
    "lora_rank": 4,
    "steps": 3,
    "prompts_per_step": 4,
    "group_size": 4,
    "learning_rate": 1e-2,
    "ppo": {"value_warmup_steps": 1},
    "validation": {"every": 0},
}


@pytest.fixture
def rlvr(run_training):
    """Runs the stage with an adapter of rank 4."""
    return lambda name="out", **changes: run_training(run, RLVRConfig(**(SMALL | changes)), name)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_trains_an_adapter_and_leaves_a_plain_policy(rlvr, npc_policy_folder, algorithm):
    report, curve, outputs = rlvr(algorithm=algorithm)
    updates = [row for row in curve if "rollout_reward" in row]
    assert len(updates) == 3 and updates[0]["kl"] == pytest.approx(0, abs=1e-6), "anchored to where it starts"
    assert 0 < updates[-1]["kl_probe"] < 0.6
    before, after = (load_file(f / "model.safetensors") for f in (npc_policy_folder, outputs["policy"]))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    nll = {when: report.details["forgetting"][when]["nll"] for when in ("before", "after")}
    assert nll["before"] != nll["after"]


def test_the_ceiling_undoes_an_adapter_s_updates(rlvr, npc_policy_folder):
    report, _, outputs = rlvr(kl={"target": 1e-12, "ceiling": 1e-11, "patience": 2})
    assert (report.metrics["updates"], report.details["reason"]) == (0, "kl_ceiling")
    before, after = (load_file(f / "model.safetensors") for f in (npc_policy_folder, outputs["policy"]))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("algorithm", [Algorithm.GRPO, Algorithm.PPO])
def test_taken_up_in_the_middle_it_ends_with_the_same_bits_and_saves_only_what_is_trained(
    rlvr, tmp_path, monkeypatch, algorithm
):
    """In the middle of a generation's updates, with the validation loop's best weights."""
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    monkeypatch.setenv(CHECKPOINT_STEPS, "1")
    changes = {"algorithm": algorithm, "steps": 4, "updates_per_rollout": 2, "validation": {"every": 1, "scenarios": 4}}
    _, curve, whole = rlvr("whole", **changes)
    steps = sorted((tmp_path / "checkpoints").rglob("step-*"))
    kept = steps[0]
    with safe_open(kept / "rank-00000" / "tensors.safetensors", "pt") as saved:
        others = {k for k in saved.keys() if "model/" in k and "lora_" not in k and "value_head" not in k}  # noqa: SIM118
    assert others == set()
    for newer in steps[1:]:
        shutil.rmtree(newer)
    _, again, resumed = rlvr("resumed", **changes)
    assert again == curve
    first, second = (outputs["policy"] / "model.safetensors" for outputs in (whole, resumed))
    assert first.read_bytes() == second.read_bytes()

"""SRL with an adapter, in both readings: the stage's own path, from two policies that are one to a merged policy."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.shared.contracts.environment import CHECKPOINT_STEPS, CHECKPOINTS
from components.srl.run import run
from components.srl.spec import Reading, SRLConfig

SMALL = {"lora_rank": 4, "validation": {"every": 2, "scenarios": 4}}
WEIGHTED = {"steps": 6, "batch_size": 4, "learning_rate": 2e-2, "warmup_steps": 2, "patience": 50}
SIMILARITY = {
    "reading": Reading.SIMILARITY,
    "patience": 50,
    "similarity": {"steps": 3, "prompts_per_step": 4, "group_size": 4, "learning_rate": 1e-2, "kl_weight": 0.05},
}
BOTH = pytest.mark.parametrize("reading", [WEIGHTED, SIMILARITY], ids=["weighted", "similarity"])


@pytest.fixture
def srl(run_training):
    """Runs the stage with an adapter of rank 4."""
    return lambda name="out", **changes: run_training(run, SRLConfig(**(SMALL | changes)), name)


def probes(curve):
    return [row for row in curve if "kl_probe" in row]


@BOTH
def test_a_whole_policy_comes_out_whose_linear_layers_alone_have_moved(srl, npc_policy_folder, reading):
    report, curve, outputs = srl(**reading, validation={"every": 0})
    assert report.metrics["updates"] >= 3 and probes(curve)[-1]["kl_probe"] > 0
    before, after = (load_file(f / "model.safetensors") for f in (npc_policy_folder, outputs["policy"]))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}


def test_undone_updates_leave_the_adapter_as_it_was_and_the_reference_is_the_base(srl, npc_policy_folder):
    """Refused to the end, what comes out is what went in; the KL that is measured at the start is of equal policies."""
    report, curve, outputs = srl(**WEIGHTED | {"max_kl": 1e-12, "patience": 3})
    assert (report.metrics["updates"], report.details["reason"]) == (0, "kl_ceiling")
    before, after = (load_file(f / "model.safetensors") for f in (npc_policy_folder, outputs["policy"]))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(row["kl"] == pytest.approx(0, abs=1e-6) for row in curve if "kl" in row)


def test_refused_updates_are_tried_smaller_and_the_ceiling_holds(srl):
    report, curve, _ = srl(**WEIGHTED | {"steps": 12, "learning_rate": 5e-2, "max_kl": 0.05})
    assert report.metrics["refused"] > 0 and report.metrics["updates"] > 0
    assert all((row["kl_probe"] < 0.05) == bool(row["accepted"]) for row in curve if "accepted" in row)


def test_packed_rows_and_padded_ones_train_an_adapter_alike(srl):
    (_, packed, _), (_, padded, _) = (srl(str(way), packing=way, **WEIGHTED) for way in (True, False))
    for ours, theirs in zip(packed, padded, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@BOTH
def test_taken_up_in_the_middle_it_ends_with_the_same_bits_and_saves_only_what_is_trained(
    srl, tmp_path, monkeypatch, reading
):
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    monkeypatch.setenv(CHECKPOINT_STEPS, "1")
    _, curve, whole = srl("whole", **reading)
    steps = sorted((tmp_path / "checkpoints").rglob("step-*"))
    with safe_open(steps[0] / "rank-00000" / "tensors.safetensors", "pt") as saved:
        assert {key for key in saved.keys() if "model/" in key and "lora_" not in key} == set()  # noqa: SIM118
    for newer in steps[1:]:
        shutil.rmtree(newer)
    _, again, resumed = srl("resumed", **reading)
    assert again == curve
    first, second = (outputs["policy"] / "model.safetensors" for outputs in (whole, resumed))
    assert first.read_bytes() == second.read_bytes()

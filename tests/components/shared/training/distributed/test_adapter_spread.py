"""An adapter in training over two real processes: the numbers of one, for a supervised loss and for sampled rollouts."""

import json

import pytest
import torch
from forked import call
from safetensors.torch import load_file

from components.entrypoints.main import main
from components.shared.contracts.environment import STRATEGY, Strategy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SRL = "{lora_rank: 4, steps: 6, batch_size: 8, learning_rate: 0.02, warmup_steps: 2, patience: 50, validation: {every: 0}}"
RLVR = (
    "{lora_rank: 4, steps: 3, prompts_per_step: 4, group_size: 4, learning_rate: 0.001, algorithm: ppo,"
    " ppo: {value_warmup_steps: 1}, hints: {max_share: 0.5}, watch: {every: 2, prompts: 4}, validation: {every: 0}}"
)


@pytest.fixture
def stage(workspace, tmp_path):
    """Runs a stage by its entry point; returns its outputs' folder."""

    def run(name, config, strategy, processes):
        file, out = tmp_path / f"{name}.yaml", tmp_path / f"{name}-{strategy}"
        file.write_text(config)
        given = [f"--input=dataset={workspace / 'dataset'}", f"--input=policy={workspace / 'teacher'}"]
        wanted = [f"--output={part}={out / part}" for part in ("policy", "report")]
        arguments = [name, f"--config={file}", *given, *wanted]
        call(main, arguments, log=tmp_path / "log", processes=processes, **{STRATEGY: strategy})
        return out

    return run


def curve(out):
    return [json.loads(line) for line in (out / "report" / "metrics.jsonl").read_text().splitlines()]


def test_srl_trains_an_adapter_on_two_processes_as_on_one(stage):
    alone, together = (stage("srl", SRL, *spread) for spread in ((Strategy.SINGLE, 1), (Strategy.DDP, 2)))
    for ours, theirs in zip(curve(together), curve(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    ours, theirs = (load_file(out / "policy" / "model.safetensors") for out in (together, alone))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)


@pytest.mark.whole
def test_rlvr_trains_an_adapter_on_two_processes_from_its_anchor_on(stage):
    out = stage("rlvr", RLVR, Strategy.DDP, 2)
    updates = [row for row in curve(out) if "rollout_reward" in row]
    assert len(updates) == 3 and updates[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < updates[-1]["kl_probe"] < 0.6

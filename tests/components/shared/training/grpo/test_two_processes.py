"""Two gloo processes train one policy: the same decisions, the same weights, half of the groups each."""

import pytest
import torch
from agreeing_ranks import train
from forked import call
from safetensors.torch import load_file

from components.shared.contracts.environment import STRATEGY, Strategy
from components.shared.training.policies import save_policy


@pytest.mark.slow
def test_processes_agree_on_every_decision_and_end_with_the_same_weights(tiny_policy, tmp_path):
    (tmp_path / "anchor").mkdir()
    save_policy(tiny_policy, tmp_path / "anchor")
    variables = {"ACCELERATE_USE_CPU": "true", STRATEGY: Strategy.DDP}
    call(train, tmp_path, log=tmp_path / "log", processes=2, **variables)
    first, second = ((tmp_path / f"rank{rank}.json").read_text() for rank in range(2))
    assert first == second and '"world": 2' in first and "shared_prefix" in first
    weights, others = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    before = tiny_policy.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in weights.items())

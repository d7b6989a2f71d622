"""A run that dies between two updates and is started again ends with the bits of one that was never stopped."""

import pytest
import torch
from transformers import TrainerCallback

from components.rlvr.ppo_trainer import PPOTrainer, attach_value_head
from components.rlvr.spec import PPOSettings
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, KLSettings, SamplingSettings
from components.shared.training.trl_adapter import train_quietly


class PowerCut(TrainerCallback):
    def __init__(self, at: int):
        self._at = at

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self._at:
            raise KeyboardInterrupt


def sparse(completions, index, **_):
    return [0.0 if i % 2 else float(text.count("bell")) for i, text in zip(index, completions, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [Algorithm.GRPO, Algorithm.PPO])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_ends_with_the_same_bits(make_optimizer, twin, tmp_path, algorithm, cut):
    """Two updates a rollout, two passes over it, dynamic sampling with predictions and a ceiling that refuses."""

    def run(folder, cut=None):
        policy = twin()
        options = {}
        if algorithm == Algorithm.PPO:
            attach_value_head(policy.model)
            options = {"ppo": PPOSettings(value_warmup_steps=2)}
        guard = KLGuard(
            KLProbe(twin(), ["the bell at"], max_tokens=6),
            KLSettings(target=0.02, ceiling=0.04, patience=50),
            beta=0.05,
        )
        trainer = make_optimizer(
            PPOTrainer if options else PolicyOptimizer,
            policy=policy,
            reward=sparse,
            guard=guard,
            sampling=SamplingSettings(rounds=3),
            update={
                "algorithm": algorithm,
                "steps": 6,
                "updates_per_rollout": 2,
                "iterations": 2,
                "learning_rate": 3e-2,
            },
            **options,
        )
        if cut is not None:
            trainer.add_callback(PowerCut(cut))
        trainer.resume_with(Checkpoints(folder=folder, every_steps=1), {})
        train_quietly(trainer)
        return policy.model.state_dict(), trainer

    whole, uninterrupted = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", cut)
    resumed, trainer = run(tmp_path / "cut")
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert trainer.stream == uninterrupted.stream
    assert trainer._guard.controller == uninterrupted._guard.controller and trainer._guard.controller.refused > 0

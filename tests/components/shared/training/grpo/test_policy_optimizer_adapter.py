"""A policy with an adapter is anchored to itself without it: TRL holds no second model and no second adapter."""

import pytest
import torch

from components.rlvr.ppo_trainer import PPOTrainer, attach_value_head
from components.rlvr.spec import PPOSettings
from components.shared.training.adapters import bare, with_adapter
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, Scoring
from components.shared.training.supervised import Example, chosen, collate, completion_logprobs
from components.shared.training.trl_adapter import train_quietly


@pytest.mark.parametrize("scoring", list(Scoring))
@pytest.mark.parametrize("algorithm", [Algorithm.GRPO, Algorithm.PPO])
def test_the_reference_is_the_base_and_does_not_move(make_optimizer, twin, scoring, algorithm):
    policy, base = with_adapter(twin(), 4), twin()
    options = {}
    if algorithm == Algorithm.PPO:
        if scoring == Scoring.STOCK:
            pytest.skip("ppo needs the hidden states")
        attach_value_head(bare(policy.model))
        options = {"ppo": PPOSettings(value_warmup_steps=1)}
    trainer = make_optimizer(
        PPOTrainer if options else PolicyOptimizer,
        policy=policy,
        scoring=scoring,
        update={"algorithm": algorithm, "steps": 4, "learning_rate": 5e-2},
        **options,
    )
    assert trainer.ref_model is None and list(policy.model.peft_config) == ["default"]
    train_quietly(trainer)
    assert trainer.scoring == scoring, "it proved equal, under the adapter too"
    history = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert history[0] == pytest.approx(0, abs=1e-6) and history[-1] > 1e-4, "the policy moves, from the base on"
    (last,) = trainer._buffered_inputs
    mask_BC = last["completion_mask"].bool()
    for row, kept_C in enumerate(mask_BC):
        prompt = last["prompt_ids"][row][last["prompt_mask"][row].bool()].tolist()
        completion = last["completion_ids"][row][kept_C].tolist()
        row_of_base = Example(prompt_ids=prompt, completion_ids=completion, weights=[1.0] * len(completion))
        batch = collate([row_of_base], 0)
        with torch.no_grad():
            expected = chosen(completion_logprobs(base.model.eval(), batch), batch)[0]
        torch.testing.assert_close(last["ref_per_token_logps"][row][kept_C], expected, atol=1e-5, rtol=0)

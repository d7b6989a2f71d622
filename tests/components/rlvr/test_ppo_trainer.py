"""PPO against a page of plain torch: the same loss and the same gradients, token by token."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.rlvr.ppo_trainer import (
    PPOTrainer,
    attach_value_head,
    detach_value_head,
    explained_variance,
    gae,
    outcome_rewards,
    value_loss,
    whitened,
)
from components.rlvr.spec import PPOSettings
from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.settings import Algorithm, SamplingSettings
from components.shared.training.policies import load_policy, save_policy
from components.shared.training.trl_adapter import train_quietly

CLIP, BETA, ENTROPY, TEMPERATURE = 0.2, 0.05, 0.01, 0.8
PPO = PPOSettings(
    gamma=0.97, policy_lambda=0.9, value_lambda=0.8, value_warmup_steps=0, value_clip=0.05, value_learning_rate=1e-2
)


def likes_bell(completions, **_):
    return [text.split().count("bell") / max(1, len(text.split())) + 0.1 * len(text.split()) for text in completions]


@pytest.fixture
def make_ppo(tiny_policy, tmp_path):
    from datasets import Dataset

    anchor = tmp_path / "anchor"
    anchor.mkdir()
    save_policy(tiny_policy, anchor)

    def make(cls=PPOTrainer, ppo=PPO, **changes):
        tiny_policy.model.name_or_path = tiny_policy.model.config._name_or_path = str(anchor)
        attach_value_head(tiny_policy.model)
        values = {
            "algorithm": Algorithm.PPO,
            "steps": 4,
            "seed": 0,
            "prompts": 4,
            "group_size": 4,
            "max_tokens": 6,
            "learning_rate": 2e-2,
            "max_grad_norm": 1.0,
            "beta": BETA,
            "temperature": TEMPERATURE,
            "entropy_weight": ENTROPY,
        }
        prompts = ["the bell", "say yes", "at dawn the bell", "rings"]
        return cls(
            model=tiny_policy.model,
            reward_funcs=[likes_bell],
            args=arguments(Update(**(values | changes)), str(tmp_path / "scratch")),
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
            processing_class=tiny_policy.tokenizer,
            sampling=SamplingSettings(),
            ppo=ppo,
        )

    return make


def plain_ppo_loss(model, reference, inputs, totals, old_logprobs, old_values):
    """The loss of one batch, from token ids and rewards alone; old log-probabilities and values are the rollout's."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    mask = inputs["completion_mask"].float()
    count = mask.shape[1]
    output = model(input_ids=ids, attention_mask=attention, output_hidden_states=True, use_cache=False)
    logprobs = (output.logits[:, -count - 1 : -1] / TEMPERATURE).log_softmax(-1)
    chosen = logprobs.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
    values = model.value_head(output.hidden_states[-1][:, -count - 1 : -1]).squeeze(-1)
    with torch.no_grad():
        other = reference(input_ids=ids, attention_mask=attention).logits[:, -count - 1 : -1] / TEMPERATURE
        other = other.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)

    advantages, returns = torch.zeros_like(mask), torch.zeros_like(mask)
    for row, total in enumerate(totals):
        length = int(mask[row].sum())
        rewards = [0.0] * (length - 1) + [total.item()]
        known = [*old_values[row, :length].tolist(), 0.0]
        deltas = [rewards[t] + PPO.gamma * known[t + 1] - known[t] for t in range(length)]
        for target, lambda_ in ((advantages, PPO.policy_lambda), (returns, PPO.value_lambda)):
            for t in range(length):
                target[row, t] = sum((PPO.gamma * lambda_) ** (k - t) * deltas[k] for k in range(t, length))
        returns[row, :length] += old_values[row, :length]
    kept = mask.bool()
    mean, deviation = advantages[kept].mean(), advantages[kept].std(correction=0)
    advantages = (advantages - mean) / deviation

    ratio = (chosen - old_logprobs).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)[kept].mean()
    # k3, with TRL's importance weight on it.
    kl = (((other - chosen).exp() - (other - chosen) - 1) * ratio)[kept].mean()
    entropy = -(logprobs.exp() * logprobs).sum(-1)[kept].mean()
    near = old_values + (values - old_values).clamp(-PPO.value_clip, PPO.value_clip)
    value_error = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)[kept].mean()
    return -surrogate + BETA * kl - ENTROPY * entropy + PPO.value_weight * value_error


def test_loss_and_gradients_are_those_of_a_page_of_plain_torch(make_ppo, tmp_path):
    """Over four updates on two rollouts, so that ratios, values and clips all differ from their start."""
    compared = []
    reference = load_policy(tmp_path / "anchor").model

    class Spy(PPOTrainer):
        def _with_advantages(self, rollouts, totals_B):
            return super()._with_advantages(rollouts, totals_B) | {"totals": totals_B}

        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            parameters = [p for p in model.parameters() if p.requires_grad]
            ours = torch.autograd.grad(loss, parameters, retain_graph=True)
            plain = plain_ppo_loss(
                model, reference, inputs, inputs["totals"], inputs["old_per_token_logps"], inputs["old_values"]
            )
            theirs = torch.autograd.grad(plain, parameters)
            moved = (self._scores.values_BC - inputs["old_values"]).abs().max().item()
            ratio = (self._scores.logprobs_BC - inputs["old_per_token_logps"]).exp()
            clipped = ((ratio - 1).abs() > CLIP)[inputs["completion_mask"].bool()].any().item()
            compared.append((loss.item(), plain.item(), ours, theirs, moved, clipped))
            return loss

    train_quietly(make_ppo(Spy, iterations=2))
    assert len(compared) == 4
    for loss, plain, ours, theirs, _, _ in compared:
        assert loss == pytest.approx(plain, abs=1e-6)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
    assert any(moved > PPO.value_clip for *_, moved, _ in compared) and any(clipped for *_, clipped in compared)


def test_only_the_value_head_moves_while_it_warms_up(make_ppo, tiny_policy):
    before = copy.deepcopy(tiny_policy.model.state_dict())
    trainer = make_ppo(ppo=PPO.model_copy(update={"value_warmup_steps": 3}), steps=3)
    train_quietly(trainer)
    assert all(torch.equal(tiny_policy.model.state_dict()[name], value) for name, value in before.items())
    assert tiny_policy.model.value_head.weight.abs().sum() > 0
    errors = [line["ppo/value_loss"] for line in trainer.state.log_history if "ppo/value_loss" in line]
    assert errors[-1] < errors[0]


def test_after_the_warm_up_the_policy_moves_too(make_ppo, tiny_policy):
    before = copy.deepcopy(tiny_policy.model.state_dict())
    train_quietly(make_ppo(ppo=PPO.model_copy(update={"value_warmup_steps": 3}), steps=4))
    assert any(not torch.equal(tiny_policy.model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_ppo_raises_the_reward_and_learns_to_foresee_it(make_ppo):
    trainer = make_ppo(
        ppo=PPO.model_copy(update={"value_warmup_steps": 5, "value_clip": 0.2}), steps=45, beta=1e-3, group_size=8
    )
    train_quietly(trainer)
    lines = [line for line in trainer.state.log_history if "reward" in line]
    assert sum(line["reward"] for line in lines[-5:]) / 5 > sum(line["reward"] for line in lines[:5]) / 5 + 0.1
    foreseen = [line["ppo/explained_variance"] for line in lines]
    assert foreseen[0] == pytest.approx(0.0, abs=1e-6) and max(foreseen) > 0.2


def test_the_head_learns_at_its_own_rate(make_ppo):
    trainer = make_ppo()
    groups = trainer.create_optimizer().param_groups
    [head] = [group for group in groups if group["lr"] == PPO.value_learning_rate]
    assert {id(p) for p in head["params"]} == {id(p) for p in trainer.model.value_head.parameters()}
    everything = [id(p) for group in groups for p in group["params"]]
    assert len(everything) == len(set(everything)) == sum(1 for _ in trainer.model.parameters())


def test_the_policy_that_is_saved_has_no_head(make_ppo, tiny_policy, tmp_path):
    keys = set(tiny_policy.model.state_dict())
    train_quietly(make_ppo(steps=1))
    head = detach_value_head(tiny_policy.model)
    assert head.weight.abs().sum() > 0
    (tmp_path / "saved").mkdir()
    save_policy(tiny_policy, tmp_path / "saved")
    again = load_policy(tmp_path / "saved").model
    assert set(again.state_dict()) == keys
    assert all(torch.equal(value, tiny_policy.model.state_dict()[name]) for name, value in again.state_dict().items())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0.5, 1), st.integers(0, 9))
def test_lambda_one_gives_the_outcome_and_lambda_zero_one_step_ahead(lengths, gamma, seed):
    torch.manual_seed(seed)
    mask = torch.tensor([[1.0] * n + [0.0] * (6 - n) for n in lengths])
    values, totals = torch.randn(mask.shape) * mask, torch.randn(len(lengths))
    rewards = outcome_rewards(totals, mask)
    assert torch.equal(rewards.sum(1), totals)
    whole, single = (gae(rewards, values, mask, gamma, lambda_) for lambda_ in (1.0, 0.0))
    for row, length in enumerate(lengths):
        for t in range(length):
            outcome = gamma ** (length - 1 - t) * totals[row]
            assert whole[row, t] == pytest.approx((outcome - values[row, t]).item(), abs=1e-5)
            ahead = gamma * values[row, t + 1] if t + 1 < length else totals[row]
            assert single[row, t] == pytest.approx((ahead - values[row, t]).item(), abs=1e-5)
        assert (whole[row, length:] == 0).all() and (single[row, length:] == 0).all()


def test_whitening_and_explained_variance_leave_padding_out():
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    values = torch.tensor([[1.0, 2.0, 99.0], [6.0, -99.0, 7.0]])
    white = whitened(values, mask)
    kept = white[mask.bool()]
    assert kept.mean().abs() < 1e-6 and kept.std(correction=0) == pytest.approx(1.0)
    assert (white[~mask.bool()] == 0).all()
    assert explained_variance(values, values, mask) == 1.0
    assert explained_variance(torch.full_like(values, 3.0), values, mask) == pytest.approx(0.0, abs=1e-6)


def test_a_value_beyond_the_clip_earns_nothing_more():
    mask, returns, old = torch.ones(1, 1), torch.tensor([[1.0]]), torch.tensor([[0.0]])
    near, far = (torch.tensor([[v]], requires_grad=True) for v in (0.1, 0.9))
    for value, expected in ((near, 0.81), (far, 0.64)):
        loss = value_loss(value, old, returns, mask, clip=0.2)
        assert loss.item() == pytest.approx(0.5 * expected)
        loss.backward()
    assert near.grad.item() == pytest.approx(-0.9)
    assert far.grad.item() == 0.0

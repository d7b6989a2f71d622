import copy
import inspect
import logging
from collections import Counter

import pytest
import torch
from trl import GRPOTrainer

from components.rlvr.ppo_trainer import PPOTrainer, attach_value_head
from components.rlvr.spec import PPOSettings
from components.shared.training.grpo import completion_scoring
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer, shuffled_groups
from components.shared.training.grpo.settings import Algorithm, SamplingSettings, Scoring
from components.shared.training.policies import load_policy
from components.shared.training.trl_adapter import train_quietly


def overridden(cls: type, base: type) -> list[str]:
    """Methods of TRL's trainer that `cls` itself redefines."""
    return [name for name, value in vars(cls).items() if inspect.isfunction(value) and hasattr(base, name)]


def count_calls(monkeypatch, cls: type, names: list[str]) -> Counter:
    calls = Counter()

    def counted(name, method):
        def call(self, *args, **kwargs):
            calls[name] += 1
            return method(self, *args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(cls, name, counted(name, vars(cls)[name]))
    return calls


def test_every_overridden_hook_of_trl_is_really_called(make_optimizer, monkeypatch):
    names = overridden(PolicyOptimizer, GRPOTrainer)
    assert len(names) >= 9
    calls = count_calls(monkeypatch, PolicyOptimizer, names)
    train_quietly(make_optimizer(update={"steps": 2}))
    assert set(names) == set(calls)


def test_every_hook_that_ppo_overrides_is_really_called(make_optimizer, tiny_policy, monkeypatch):
    names = overridden(PPOTrainer, PolicyOptimizer)
    calls = count_calls(monkeypatch, PPOTrainer, names)
    attach_value_head(tiny_policy.model)
    train_quietly(
        make_optimizer(PPOTrainer, ppo=PPOSettings(value_warmup_steps=1), update={"algorithm": Algorithm.PPO})
    )
    assert {"__init__", "create_optimizer", "_request", "_with_advantages", "_compute_loss"} <= set(names)
    assert set(names) - set(calls) == set()


def test_overrides_take_what_trl_passes():
    """Parameters that TRL names are there by the same name, in the same order."""
    for name in overridden(PolicyOptimizer, GRPOTrainer):
        ours, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (PolicyOptimizer, GRPOTrainer))
        if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in ours.values()):
            continue
        assert list(ours) == list(theirs), name


@pytest.mark.parametrize("scoring", [Scoring.SHARED_PREFIX, Scoring.COMPLETION_HEAD])
def test_every_scoring_trains_like_trl_s_own(make_optimizer, twin, scoring):
    policies = {way: twin() for way in (scoring, Scoring.STOCK)}
    histories = {}
    for way, policy in policies.items():
        trainer = make_optimizer(policy=policy, scoring=way, update={"learning_rate": 1e-3})
        train_quietly(trainer)
        assert trainer.scoring == way
        histories[way] = [line for line in trainer.state.log_history if "kl" in line]
    for ours, theirs in zip(*histories.values(), strict=True):
        for key in ("reward", "kl", "entropy", "loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key
    for p, q in zip(*(policy.model.parameters() for policy in policies.values()), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_a_scoring_that_is_wrong_for_the_model_falls_back_with_a_line_in_the_log(make_optimizer, monkeypatch, caplog):
    """A gradient that gets lost is caught even though every log-probability is right."""
    whole = completion_scoring.expanded

    def detached(cache, inverse):
        copy = whole(cache, inverse)
        for layer in copy.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return copy

    monkeypatch.setattr(completion_scoring, "expanded", detached)
    trainer = make_optimizer(update={"steps": 1})
    with caplog.at_level(logging.WARNING):
        train_quietly(trainer)
    assert trainer.scoring == Scoring.COMPLETION_HEAD
    assert any("shared_prefix scoring differs" in message for message in caplog.messages)


def test_the_reference_does_not_move_and_is_the_anchor(make_optimizer, tiny_policy, tmp_path):
    trainer = make_optimizer(update={"steps": 4})
    train_quietly(trainer)
    anchor = load_policy(tmp_path / "anchor").model.state_dict()
    reference = trainer.ref_model.state_dict()
    assert all(torch.equal(value, anchor[name]) for name, value in reference.items())
    assert not any(p.requires_grad for p in trainer.ref_model.parameters())
    assert any(not torch.equal(value, anchor[name]) for name, value in tiny_policy.model.state_dict().items())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(make_optimizer, twin):
    results = []
    for seed in (0, 0, 1):
        policy = twin()
        torch.manual_seed(seed)
        train_quietly(make_optimizer(policy=policy, update={"seed": seed}))
        results.append(torch.cat([p.flatten() for p in policy.model.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("algorithm", [a for a in Algorithm if a != Algorithm.PPO])
def test_every_algorithm_raises_the_reward(make_optimizer, algorithm):
    trainer = make_optimizer(
        update={"algorithm": algorithm, "steps": 25, "group_size": 8, "learning_rate": 2e-2, "beta": 1e-3}
    )
    train_quietly(trainer)
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.1


def test_dynamic_sampling_fills_updates_from_its_own_stream_and_says_what_it_cost(make_optimizer):
    """Half the prompts can never earn anything; no group of theirs is trained on."""
    seen = []

    def reward(completions, index, **_):
        return [0.0 if i % 2 else text.split().count("the") / 6 for i, text in zip(index, completions, strict=True)]

    class Spy(PolicyOptimizer):
        def _compute_loss(self, model, inputs):
            seen.append(inputs["advantages"].view(-1, 4).abs().sum(1))
            return super()._compute_loss(model, inputs)

    trainer = make_optimizer(Spy, reward=reward, sampling=SamplingSettings(rounds=12, explore=0.5))
    train_quietly(trainer)
    assert all((groups > 0).all() for groups in seen)
    lines = [line for line in trainer.state.log_history if "sampling/kept" in line]
    assert min(line["sampling/kept"] for line in lines) < 1
    assert all(line["sampling/rollouts_per_useful"] == pytest.approx(4 / line["sampling/kept"]) for line in lines)
    assert trainer.stream.position > 12


def test_micro_batches_are_made_of_whole_groups_and_add_up_to_one_update(make_optimizer, twin):
    """Four micro-batches give the update that one batch gives, each prompt in one micro-batch only."""
    prompts = []

    class Spy(PolicyOptimizer):
        def _compute_loss(self, model, inputs):
            prompts.append({tuple(row) for row in inputs["prompt_ids"].tolist()})
            return super()._compute_loss(model, inputs)

    whole, parts = twin(), twin()
    for policy, accumulation in ((whole, 1), (parts, 4)):
        prompts.clear()
        train_quietly(
            make_optimizer(Spy, policy=policy, update={"steps": 1, "accumulation": accumulation, "learning_rate": 1e-3})
        )
    assert [len(distinct) for distinct in prompts] == [1, 1, 1, 1]
    for p, q in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=0)


def test_rows_keep_their_own_limit(make_optimizer):
    lengths = []

    def reward(completions, index, **_):
        lengths.extend(zip(index, (len(text.split()) for text in completions), strict=True))
        return [float(len(text)) for text in completions]

    rows = [{"prompt": "the bell", "index": i, "max_tokens": 1 + i} for i in range(4)]
    train_quietly(make_optimizer(reward=reward, rows=rows, update={"steps": 2}))
    longest = {i: max(length for j, length in lengths if j == i) for i in range(4)}
    assert longest == {0: 1, 1: 2, 2: 3, 3: 4}


def test_the_model_comes_out_as_its_class_made_it(make_optimizer, tiny_policy):
    train_quietly(make_optimizer(update={"steps": 1}))
    assert "forward" not in vars(tiny_policy.model)
    before = tiny_policy.model(torch.tensor([[3, 4]])).logits
    assert torch.equal(copy.deepcopy(tiny_policy.model)(torch.tensor([[3, 4]])).logits, before)


def test_shuffling_moves_whole_groups():
    torch.manual_seed(0)
    rows = {
        "completion_ids": torch.arange(12)[:, None],
        "advantages": torch.arange(12.0),
        "num_items_in_batch": torch.tensor(3),
    }
    shuffled = shuffled_groups(rows, 4)
    assert torch.equal(shuffled["completion_ids"][:, 0].float(), shuffled["advantages"])
    groups = shuffled["advantages"].view(3, 4)
    assert torch.equal(groups[:, 1:] - groups[:, :1], torch.tensor([[1.0, 2, 3]]).expand(3, 3))
    assert sorted(groups[:, 0].tolist()) == [0, 4, 8]
    assert shuffled["num_items_in_batch"] == 3

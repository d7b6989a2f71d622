import copy

import pytest
import torch
from transformers import TrainerCallback

from components.shared.training.divergence import full_kl
from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
from components.shared.training.grpo.settings import KLSettings
from components.shared.training.rollouts import complete
from components.shared.training.trl_adapter import train_quietly

PROMPTS = ["the bell at", "no"]


class AfterEachUpdate(TrainerCallback):
    """Measures the policy once an update is over, as an outsider does."""

    def __init__(self, probe):
        self.probe = probe
        self.kls = []

    def on_step_end(self, args, state, control, model, **_):
        self.kls.append(self.probe.measure(model))


@pytest.fixture
def train_guarded(make_optimizer, twin):
    """Trains a fresh policy under a ceiling; returns the trainer, its guard and the KL after each update."""

    def run(steps=6, rate=1e-2, **settings):
        probe = KLProbe(twin(), PROMPTS, max_tokens=6)
        guard = KLGuard(probe, KLSettings(**({"target": 0.05, "ceiling": 0.1} | settings)), beta=0.05)
        trainer = make_optimizer(policy=twin(), guard=guard, update={"steps": steps, "learning_rate": rate})
        outsider = AfterEachUpdate(probe)
        trainer.add_callback(outsider)
        train_quietly(trainer)
        return trainer, guard, outsider.kls

    return run


def test_the_probe_measures_the_exact_kl_on_the_reference_s_own_answers(twin):
    reference, policy = twin(), twin()
    probe = KLProbe(reference, PROMPTS, max_tokens=6)
    assert probe.measure(policy.model) == 0.0
    with torch.no_grad():
        policy.model.model.embed_tokens.weight.mul_(3)
    total = count = 0.0
    for prompt in PROMPTS:
        [answer] = complete(reference, [prompt], max_tokens=6)
        ids = reference.tokenizer(f"{prompt} {answer}".strip(), return_tensors="pt")["input_ids"]
        start = len(prompt.split()) - 1
        with torch.no_grad():
            ours, theirs = (p.model.eval()(ids).logits[0, start:].log_softmax(-1) for p in (policy, reference))
        total += full_kl(ours, theirs).sum().item()
        count += len(ours)
    assert probe.measure(policy.model) == pytest.approx(total / count, rel=1e-4)


def test_no_update_leaves_the_policy_at_the_ceiling(train_guarded):
    _, guard, kls = train_guarded(steps=8, rate=5e-2, patience=30)
    assert guard.controller.refused > 0
    assert len(kls) == 8 and max(kls) < 0.1
    assert max(kls) == pytest.approx(guard.controller.highest_accepted)


def test_a_refused_update_is_tried_again_with_half_the_step_and_the_same_gradient(train_guarded):
    """The first accepted step has the direction of the first refused one, shorter by a power of two."""
    free, _, _ = train_guarded(steps=1, rate=5e-2, ceiling=1e9, target=1e8)
    held, guard, _ = train_guarded(steps=1, rate=5e-2, patience=30, target=0.005, ceiling=0.01)
    start, _, _ = train_guarded(steps=1, rate=1e-30)
    assert guard.controller.refused > 0
    for p, q, s in zip(*(t.model.parameters() for t in (free, held, start)), strict=True):
        torch.testing.assert_close((q - s) * 2**guard.controller.refused, p - s, atol=1e-5, rtol=1e-3)


def test_refusals_to_the_end_leave_the_last_accepted_weights_and_stop_training(make_optimizer, twin):
    policy, probe = twin(), KLProbe(twin(), PROMPTS, max_tokens=6)
    before = copy.deepcopy(policy.model.state_dict())
    guard = KLGuard(probe, KLSettings(target=1e-10, ceiling=1e-9, patience=3), beta=0.05)
    trainer = make_optimizer(policy=policy, guard=guard, update={"steps": 5, "learning_rate": 1.0})
    train_quietly(trainer)
    assert guard.controller.exhausted and guard.controller.refused == 3
    assert trainer.state.global_step == 1
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


def test_the_penalty_s_coefficient_follows_the_controller(train_guarded):
    trainer, _, _ = train_guarded(steps=6, rate=2e-2, target=1e-4, ceiling=5.0)
    logged = [line["guard/beta"] for line in trainer.state.log_history if "guard/beta" in line]
    assert logged[0] > 0.05 and sorted(logged) == logged
    assert trainer.beta == pytest.approx(logged[-3])


def test_the_learning_rate_recovers_after_a_refusal(train_guarded):
    trainer, guard, _ = train_guarded(steps=8, rate=5e-2, patience=30)
    assert guard.controller.refused > 0
    assert all(group["lr"] == 5e-2 for group in trainer.optimizer.param_groups)

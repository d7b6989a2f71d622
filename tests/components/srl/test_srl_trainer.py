import copy
import json
import logging

import pytest
import torch

from components.shared.contracts.records import Scenario, Split, Step, Trajectory
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.policies import Policy
from components.shared.training.supervised import chosen, collate, completion_logprobs, example
from components.srl import srl_trainer
from components.srl.spec import SRLConfig


def trajectory(prompt: str, *steps: tuple[str, float]) -> Trajectory:
    scenario = Scenario(
        id=prompt, model_type="toy", group="g", split=Split.TRAIN, prompt=prompt, state={}, difficulty=0.5
    )
    return Trajectory(
        id=prompt,
        scenario=scenario,
        teacher="toy",
        context=(),
        attempt=1,
        steps=tuple(
            Step(index=i, title="say", text=text, action={}, reward=reward) for i, (text, reward) in enumerate(steps, 1)
        ),
    )


ROWS = [
    trajectory("the bell =", ("rings ;", 1.0), ("say yes", 0.1)),
    trajectory("at dawn =", ("rings ;", 1.0), ("say no", 0.1)),
    trajectory("the dawn =", ("rings ;", 0.9), ("say no", 0.2)),
]


def train(policy: Policy, folder, **changes) -> tuple[srl_trainer.SRLResult, list[dict]]:
    config = SRLConfig(**({"steps": 30, "batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 2} | changes))
    result = srl_trainer.train(policy, copy.deepcopy(policy), ROWS, ROWS[:2], config, PerformanceTracker(folder))
    return result, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def nll(policy: Policy, prompt: str, text: str) -> float:
    batch = collate([example(policy, prompt, [text], [1.0])], 0)
    with torch.no_grad():
        logp = chosen(completion_logprobs(policy.model.eval(), batch), batch)
    return -logp[0, :-1].mean().item()


def test_sound_steps_are_learned_and_unsound_ones_are_not(tiny_policy, tmp_path):
    before = [nll(tiny_policy, "the bell =", "rings ;"), nll(tiny_policy, "the bell = rings ;", "say yes")]
    train(tiny_policy, tmp_path, max_kl=5.0, kl_weight=0.0)
    after = [nll(tiny_policy, "the bell =", "rings ;"), nll(tiny_policy, "the bell = rings ;", "say yes")]
    assert after[0] < before[0] - 0.5
    assert before[0] - after[0] > 5 * (before[1] - after[1])


def test_no_accepted_update_reaches_max_kl_and_the_curves_say_so(tiny_policy, tmp_path):
    result, curve = train(tiny_policy, tmp_path, steps=60, learning_rate=2e-2, patience=50)
    accepted = [row["kl_probe"] for row in curve if row["accepted"]]
    assert result.refused > 0
    assert max(accepted) == result.highest_kl < 0.1
    assert len(accepted) == result.updates
    assert all(row["kl_probe"] >= 0.1 for row in curve if not row["accepted"])


def test_the_policy_that_comes_out_is_the_last_accepted_one(tiny_policy, tmp_path):
    """After refusals to the end, weights are what they were before the refused update."""
    before = copy.deepcopy(tiny_policy.model.state_dict())
    result, _ = train(tiny_policy, tmp_path, learning_rate=1e3, max_kl=1e-9, patience=4)
    assert (result.updates, result.refused, result.reason) == (0, 4, "kl_ceiling")
    for name, value in tiny_policy.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_reference_stays_and_the_same_seed_gives_the_same_bits(tiny_policy, tmp_path):
    reference = copy.deepcopy(tiny_policy)
    twin = copy.deepcopy(tiny_policy)
    config = SRLConfig(steps=8, batch_size=2)
    frozen = copy.deepcopy(reference.model.state_dict())
    for policy, name in ((tiny_policy, "a"), (twin, "b")):
        srl_trainer.train(policy, reference, ROWS, ROWS, config, PerformanceTracker(tmp_path / name))
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    for name, value in tiny_policy.model.state_dict().items():
        assert torch.equal(value, twin.model.state_dict()[name])
        assert torch.equal(reference.model.state_dict()[name], frozen[name])


def test_packed_and_padded_rows_train_alike(tiny_policy, tmp_path):
    """Undone updates and the adapted coefficient included; attention is as it was afterwards."""
    curves, policies = [], []
    for packed in (True, False):
        policies.append(copy.deepcopy(tiny_policy))
        found = train(policies[-1], tmp_path / str(packed), steps=20, learning_rate=2e-2, patience=50, packing=packed)
        curves.append(found[1])
    assert any(not row["accepted"] for row in curves[0])
    for ours, theirs in zip(*curves, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for p, q in zip(*(policy.model.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)
    assert policies[0].model.config._attn_implementation == "sdpa"


def test_a_model_that_packs_wrongly_is_padded_with_a_line_in_the_log(tiny_policy, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        tiny_policy.model.set_attn_implementation("eager")
        train(tiny_policy, tmp_path, steps=2)
    assert "padding them" in caplog.text

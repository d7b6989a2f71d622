"""The validation loop inside a real trainer."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from components.shared.contracts.records import Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.validation_loop import ValidationLoop, ValidationSettings
from components.shared.training.policies import load_policy
from components.shared.training.validation_callback import Validation, held_out


@pytest.fixture
def train(tiny_policy, tmp_path):
    """Train the tiny policy on one sentence; the scores of the looks are given. Returns callback, trainer and weights."""

    def run(means, steps=12, every=2, patience=2):
        seen, scores = [], iter(means)

        def score():
            seen.append([p.detach().clone() for p in tiny_policy.model.parameters()])
            return [next(scores)] * 3

        loop = ValidationLoop(settings=ValidationSettings(every=every, patience=patience))
        callback = Validation(loop, PerformanceTracker(tmp_path / "report"), tiny_policy.model, score)
        ids = tiny_policy.tokenizer("the bell rings at dawn")["input_ids"]
        trainer = Trainer(
            model=tiny_policy.model,
            args=TrainingArguments(
                output_dir=str(tmp_path / "out"),
                max_steps=steps,
                per_device_train_batch_size=1,
                learning_rate=1e-2,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                save_strategy="no",
            ),
            train_dataset=Dataset.from_list([{"input_ids": ids, "labels": ids}]),
            callbacks=[callback],
        )
        trainer.train()
        callback.finish(trainer.state.global_step)
        return callback, trainer, seen

    return run


def test_training_stops_early_and_ends_with_the_best_weights(train, tiny_policy, tmp_path):
    callback, trainer, seen = train([0.1, 0.5, 0.4, 0.3, 0.9])
    assert trainer.state.global_step == 6
    assert callback.loop.best.step == 2
    best, last = seen[1], seen[-1]
    assert all(torch.equal(p, kept) for p, kept in zip(tiny_policy.model.parameters(), best, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(best, last, strict=True))
    lines = (tmp_path / "report" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 and '"validation_score": 0.5' in lines[1] and '"validation_gain": 0.4' in lines[1]


def test_a_policy_that_only_gets_worse_ends_early_with_the_least_bad_that_was_trained(train, tiny_policy):
    callback, trainer, seen = train([0.5, 0.4, 0.3])
    assert callback.stopped and trainer.state.global_step == 4 and callback.loop.best.step == 2
    assert all(torch.equal(p, kept) for p, kept in zip(tiny_policy.model.parameters(), seen[1], strict=True))


def test_a_resumed_callback_knows_the_best_weights(train, tiny_policy, tmp_path):
    callback, _, seen = train([0.1, 0.5, 0.4, 0.3])
    other = Validation(
        ValidationLoop(settings=callback.loop.settings), PerformanceTracker(tmp_path / "b"), tiny_policy.model, list
    )
    other.restore(callback.state())
    with torch.no_grad():
        for parameter in tiny_policy.model.parameters():
            parameter.zero_()
    other.finish(0)
    assert all(torch.equal(p, kept) for p, kept in zip(tiny_policy.model.parameters(), seen[1], strict=True))
    assert other.loop == callback.loop


def test_what_the_last_updates_did_is_looked_at_before_it_is_thrown_away(train, tiny_policy):
    """Looks at 0, 5, 10 and at the end: of twelve updates the last two are the best."""
    callback, _, seen = train([0.1, 0.2, 0.3, 0.9], every=5)
    assert [look.step for look in callback.loop.looks] == [0, 5, 10, 12] and callback.loop.best.step == 12
    assert all(torch.equal(p, kept) for p, kept in zip(tiny_policy.model.parameters(), seen[3], strict=True))
    assert callback.loop.summary()["best"]["gain"] == pytest.approx(0.8) and callback.loop.summary()["stop"] is None


def test_without_looks_nothing_is_touched(train, tiny_policy):
    callback, trainer, _ = train([], every=0)
    assert trainer.state.global_step == 12
    assert callback.loop.looks == [] and callback.state()["best"] == []


def test_held_out_scores_are_the_checks_and_leave_the_mode_alone(npc_dataset, npc_policy_folder):
    policy = load_policy(npc_policy_folder)
    scenarios = list(npc_dataset.scenarios(Split.VALIDATION))
    policy.model.train()
    score = held_out(policy, npc_dataset.trainer, scenarios, npc_dataset.max_tokens(policy.tokenizer))
    first = score()
    assert policy.model.training
    assert len(first) == len(scenarios) and all(0 <= value <= 1 for value in first)
    policy.model.eval()
    assert score() == first and not policy.model.training

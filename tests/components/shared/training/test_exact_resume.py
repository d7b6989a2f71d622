import pytest
import torch
from datasets import Dataset as Rows
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from components.shared.contracts.errors import UsageError
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.exact_resume import ExactResume, ReplayedSampler
from components.shared.training.training_state import load_model, load_optimizer, model_state, optimizer_state


def test_an_epoch_s_order_is_stock_s_and_follows_from_the_epoch_alone():
    options = {"mini_repeat_count": 2, "batch_size": 3, "repeat_count": 2, "shuffle": True, "seed": 5}
    stock = RepeatSampler(range(9), **options)
    orders = [list(stock) for _ in range(3)]
    assert orders[0] != orders[1]
    for epoch in (2, 0, 1):
        replayed = ReplayedSampler(range(9), **options)
        replayed.epoch = lambda epoch=epoch: epoch
        assert list(replayed) == orders[epoch] == list(replayed)


class Trainer(ExactResume, GRPOTrainer):
    pass


@pytest.fixture
def make_trainer(tiny_policy, tmp_path):
    folder = tmp_path / "policy"
    tiny_policy.model.save_pretrained(folder)
    tiny_policy.model.name_or_path = tiny_policy.model.config._name_or_path = str(folder)

    def make(**changes):
        settings = {
            "output_dir": str(tmp_path / "scratch"),
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "num_generations": 2,
            "max_completion_length": 4,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "save_strategy": "no",
            "report_to": [],
            "logging_steps": 1,
            "beta": 0.1,
        }
        return Trainer(
            model=tiny_policy.model,
            reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
            args=GRPOConfig(**settings | changes),
            train_dataset=Rows.from_list([{"prompt": "the bell"}, {"prompt": "at dawn"}, {"prompt": "say"}]),
            processing_class=tiny_policy.tokenizer,
        )

    return make


def test_every_hook_that_is_overridden_is_one_that_the_trainer_calls(make_trainer, tmp_path, monkeypatch):
    """A release that renames one of them would otherwise quietly resume as stock does."""
    called = set()
    hooks = ("_maybe_log_save_evaluate", "_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state")
    for name in (*hooks, "_get_train_sampler"):
        original = getattr(ExactResume, name)

        def noted(self, *args, _name=name, _original=original, **kwargs):
            called.add(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(ExactResume, name, noted)
    for steps in (1, 3):
        trainer = make_trainer(max_steps=steps)
        trainer.resume_with(Checkpoints(folder=tmp_path / "checkpoints", every_steps=1), {})
        trainer.train()
    assert called == {*hooks, "_get_train_sampler"} and trainer.state.global_step == 3


def test_logs_between_which_sums_are_kept_are_refused(make_trainer, tmp_path):
    with pytest.raises(UsageError, match="logging_steps = 2"):
        make_trainer(logging_steps=2).resume_with(Checkpoints(folder=tmp_path), {})


def test_a_finished_run_is_taken_up_without_another_update(make_trainer, tmp_path):
    trained = []
    for _ in range(2):
        trainer = make_trainer()
        trainer.resume_with(Checkpoints(folder=tmp_path / "checkpoints"), {})
        trainer.train()
        trained.append({name: p.clone() for name, p in trainer.model.named_parameters()})
        torch.nn.init.zeros_(trainer.model.model.embed_tokens.weight)
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def saved_and_found(tmp_path, state):
    with Checkpoints(folder=tmp_path) as checkpoints:
        checkpoints.save(1, lambda: state)
    return Checkpoints(folder=tmp_path).newest().common


def test_a_value_head_is_saved_and_what_is_frozen_is_not(tiny_policy, tmp_path):
    model = tiny_policy.model.requires_grad_(False)
    model.value_head = torch.nn.Linear(16, 1)
    optimizer = torch.optim.AdamW(model.value_head.parameters(), lr=0.1)
    for _ in range(2):
        model.value_head(torch.ones(16)).sum().backward()
        optimizer.step()
    state = {"model": model_state(model), "optimizer": optimizer_state(optimizer, model)}
    assert set(state["model"]) == {"value_head.weight", "value_head.bias"}
    found = saved_and_found(tmp_path, state)
    weight, moment = model.value_head.weight.clone(), optimizer.state[model.value_head.weight]["exp_avg"].clone()
    torch.nn.init.zeros_(model.value_head.weight)
    fresh = torch.optim.AdamW(model.value_head.parameters(), lr=0.5)
    load_model(model, found["model"])
    load_optimizer(fresh, model, found["optimizer"])
    assert torch.equal(model.value_head.weight, weight) and fresh.param_groups[0]["lr"] == 0.1
    restored = fresh.state[model.value_head.weight]
    assert torch.equal(restored["exp_avg"], moment) and restored["step"].item() == 2


def test_a_parameter_without_a_saved_value_is_an_error(tiny_policy, tmp_path):
    found = saved_and_found(tmp_path, {"model": model_state(tiny_policy.model)})
    tiny_policy.model.value_head = torch.nn.Linear(16, 1)
    with pytest.raises(KeyError, match="value_head"):
        load_model(tiny_policy.model, found["model"])

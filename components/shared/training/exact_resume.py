"""TRL's trainers, resumed bit for bit.

    class OurTrainer(ExactResume, GRPOTrainer): ...
    trainer.resume_with(checkpoints, {"tracker": tracker, "kl": controller})

Stock resume loses the generations that an update was in the middle of using, TRL's own step counter and an adapted KL
coefficient, replays the first epoch's order in every epoch, leaves out PEFT's value head and reads pickles. Here the whole
state goes through `Checkpoints`, and transformers' own loading is only asked to skip the data that was seen.

With another number of processes than before, generations that were in use are made anew and the generators start from the
seed; prompts come in the same order.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import TrainerState
from trl.trainer.utils import RepeatSampler

from components.shared.contracts.errors import UsageError
from components.shared.training.checkpoints import Checkpoints, Saved
from components.shared.training.state_tree import read_whole
from components.shared.training.training_state import (
    load_model,
    load_optimizer,
    model_state,
    optimizer_state,
    restore_rng,
)

if TYPE_CHECKING:
    from transformers import Trainer as Host
else:
    Host = object

CARRIED = ("_step", "beta", "entropy_coef", "_last_world_entropy", "_entropy_window_stats")
"""Attributes of TRL's trainers that change in training and are the same on every process."""


class Stateful(Protocol):
    """Anything beside the trainer whose state a resumed run needs: a controller, a prompt stream, a recorder.

    Tensors of its state come back as `Stored`.
    """

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class ReplayedSampler(RepeatSampler):
    """TRL's sampler and order, the order of an epoch a function of (seed, epoch) alone."""

    epoch: Callable[[], int]

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


class ExactResume(Host):
    """Mix-in before a TRL trainer. Without `resume_with` it only fixes the order of later epochs."""

    _checkpoints: Checkpoints | None = None
    _companions: Mapping[str, Stateful] = {}
    model: torch.nn.Module
    lr_scheduler: Any
    _found: Saved
    _buffered_inputs: Any

    def resume_with(self, checkpoints: Checkpoints | None, companions: Mapping[str, Stateful]) -> None:
        """Save to and resume from `checkpoints`, with the state of what works beside the trainer.

        Raises UsageError where logs are not written every update: sums between two of them would be lost.
        """
        if checkpoints is not None and self.args.logging_steps != 1:
            raise UsageError(f"logging_steps = {self.args.logging_steps}: exact resume needs 1")
        self._checkpoints, self._companions = checkpoints, companions

    def train(self, *args, **kwargs):
        if self._checkpoints is None:
            return super().train(*args, **kwargs)
        with self._checkpoints, TemporaryDirectory() as folder:
            found = self._checkpoints.newest()
            if found is None:
                result = super().train(*args, **kwargs)
            elif found.step >= self.args.max_steps or found.common["stopped"]:
                result = self._take_up_finished(found)
            else:
                self._found = found
                trainer_state(self._found, self._train_batch_size).save_to_json(
                    str(Path(folder) / "trainer_state.json")
                )
                result = super().train(*args, resume_from_checkpoint=folder, **kwargs)
            self._checkpoints.save(self.state.global_step, self._common_state, self._own_state)
        return result

    def _take_up_finished(self, found: Saved) -> None:
        """Put back what a run left that had made its last update, or was stopped before it."""
        self._found = found
        self.state = trainer_state(self._found, self._train_batch_size)
        self._load_from_checkpoint("")
        self._put_back(self._found)
        self._load_rng_state("")

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._checkpoints is not None:
            self._checkpoints.after_step(self.state.global_step, self._common_state, self._own_state)

    def _common_state(self) -> dict[str, Any]:
        progress = {**dataclasses.asdict(self.state), "log_history": [], "stateful_callbacks": {}}
        return {
            "trainer": progress,
            "stopped": self.control.should_training_stop and self.state.global_step < self.args.max_steps,
            "model": model_state(self.model),
            "optimizer": optimizer_state(plain(self.optimizer), self.model),
            "scheduler": self.lr_scheduler.state_dict(),
            "carried": {name: getattr(self, name) for name in CARRIED if hasattr(self, name)},
            "companions": {name: companion.state() for name, companion in self._companions.items()},
        }

    def _own_state(self) -> dict[str, Any]:
        return {"buffered_inputs": self._buffered_inputs}

    def _put_back(self, saved: Saved) -> None:
        for name, value in read_whole(saved.common["carried"]).items():
            setattr(self, name, value)
        if saved.own is not None:
            self._buffered_inputs = read_whole(saved.own["buffered_inputs"])
        for name, companion in self._companions.items():
            companion.restore(saved.common["companions"][name])

    def _load_from_checkpoint(self, folder: str, model: torch.nn.Module | None = None) -> None:
        load_model(self.model, self._found.common["model"])

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is None:
            return
        load_optimizer(plain(self.optimizer), self.model, self._found.common["optimizer"])
        self.lr_scheduler.load_state_dict(read_whole(self._found.common["scheduler"]))
        self._put_back(self._found)

    def _load_rng_state(self, folder: str | None) -> None:
        if folder is not None and self._found.own is not None:
            restore_rng(self._found.own["rng"])

    def _get_train_sampler(self, *args, **kwargs):
        stock = super()._get_train_sampler(*args, **kwargs)
        if type(stock) is not RepeatSampler:
            return stock
        sampler = ReplayedSampler(
            stock.data_source, stock.mini_repeat_count, stock.batch_size, stock.repeat_count, stock.shuffle, stock.seed
        )
        sampler.epoch = lambda: int(self.state.epoch or 0)
        return sampler


def trainer_state(saved: Saved, batch_size: int) -> TrainerState:
    """Transformers' own account of how far training is; a process's batch goes with the number of processes."""
    return TrainerState(**{**saved.common["trainer"], "train_batch_size": batch_size})


def plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)

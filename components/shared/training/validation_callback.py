"""The validation loop inside a transformers or TRL trainer: look, log, stop early, end with the best weights.

loop = ValidationLoop(settings=settings)
callback = ValidationCallback(loop, tracker, policy.model, held_out(policy, trainer, scenarios, max_tokens))
GRPOTrainer(..., callbacks=[callback])          # resume_with(checkpoints, {"validation": callback, ...})
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.shared.contracts.records import Scenario
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.validation_loop import ValidationLoop
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete

Score = Callable[[], Sequence[float]]
"""Scores of the policy as it is now, one a scenario, always the same scenarios in the same order."""


def held_out(policy: Policy, judge: ModelTypeTrainer, scenarios: Sequence[Scenario], max_tokens: int) -> Score:
    """The check's scores of greedy answers: no generator is drawn from, and the model's mode stays as it was."""

    def score() -> list[float]:
        training = policy.model.training
        answers = complete(policy, [s.prompt for s in scenarios], max_tokens=max_tokens)
        policy.model.train(training)
        return [judge.check(s, answer).score for s, answer in zip(scenarios, answers, strict=True)]

    return score


class ValidationCallback(TrainerCallback):
    """Looks before training and as often as the loop asks; keeps a copy of the trainable weights of the best look.

    For parameters that are whole on this process: under FSDP or ZeRO-3 each holds a part, and the copy is of the part.
    """

    def __init__(self, loop: ValidationLoop, tracker: PerformanceTracker, model: torch.nn.Module, score: Score):
        self.loop = loop
        self._tracker, self._model, self._score = tracker, model, score
        self._best: list[torch.Tensor] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.loop.settings.every and not self.loop.looks:
            self._look(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.loop.due(state.global_step):
            self._look(state.global_step)
            control.should_training_stop |= self.loop.stop is not None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the model the weights of the best look, where there was one."""
        if self._best:
            for parameter, kept in zip(self._trainable(), self._best, strict=True):
                parameter.copy_(kept)

    def state(self) -> dict[str, Any]:
        return {"loop": self.loop.state(), "best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        self.loop.restore(state["loop"])
        self._best = list(state["best"])

    def _look(self, step: int) -> None:
        if self.loop.see(step, self._score()):
            self._best = [parameter.detach().to("cpu", copy=True) for parameter in self._trainable()]
        look = self.loop.looks[-1]
        self._tracker.log(
            step,
            validation_score=look.score,
            validation_gain=look.gain,
            validation_gain_low=look.gain_low,
            validation_gain_high=look.gain_high,
        )

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

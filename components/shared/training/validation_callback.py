"""The validation loop inside a training: look, log, stop early, end with the best weights.

    validation = Validation.of(settings, policy, judge, scenarios, max_tokens, tracker)

In a trainer of transformers' or TRL's it is a callback among its others and in the companions of its exact resume; in a
loop of one's own, `start` comes before the first update and `after_update` after each, which says whether to stop. Either
way `finish` comes last. Nothing is drawn from a generator, so that looking changes no update. Of a model that FSDP splits
each process keeps its part of the best weights; what ZeRO-3 splits is not looked at.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.shared.contracts.records import Scenario
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.validation_loop import ValidationLoop, ValidationSettings
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.distributed.world import World
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete
from components.shared.training.state_tree import Shard
from components.shared.training.training_state import copied, put, taken

NO_IMPROVEMENT = "no_improvement"
"""Why a training ended that the validation loop stopped."""
Score = Callable[[], Sequence[float]]
"""Scores of the policy as it is now, one a scenario, always the same scenarios in the same order."""


def held_out(
    policy: Policy, judge: ModelTypeTrainer, scenarios: Sequence[Scenario], max_tokens: int, world: World | None = None
) -> Score:
    """The check's scores of greedy answers: no generator is drawn from, and the model's mode stays as it was.

    Each process of the world answers its share, as many scenarios as any other, since those of a split model must run it
    equally often; all of them learn all scores.
    """
    world = world or World()
    mine = [i % len(scenarios) for i in range(world.rank, whole_rounds(len(scenarios), world.size), world.size)]

    def score() -> list[float]:
        training = policy.model.training
        answers = complete(policy, [scenarios[i].prompt for i in mine], max_tokens=max_tokens, in_step=world.size > 1)
        policy.model.train(training)
        scores = torch.zeros(len(scenarios), dtype=torch.float64, device=world.device)
        for i, answer in zip(mine, answers, strict=True):
            if i % world.size == world.rank:
                scores[i] = judge.check(scenarios[i], answer).score
        return world.sum(scores).tolist()

    return score


def whole_rounds(items: int, size: int) -> int:
    """The least multiple of `size` from `items` on."""
    return -(-items // size) * size


class Validation(TrainerCallback):
    """Looks before training, as often as the loop asks, and at the end; keeps a copy of the best look's weights."""

    def __init__(self, loop: ValidationLoop, tracker: PerformanceTracker, model: torch.nn.Module, score: Score):
        self.loop = loop
        self._tracker, self._model, self._score = tracker, model, score
        self._best: list[torch.Tensor | Shard] = []
        """What this process has of the trainable parameters, on the CPU."""

    @classmethod
    def of(
        cls,
        settings: ValidationSettings,
        policy: Policy,
        judge: ModelTypeTrainer,
        scenarios: Sequence[Scenario],
        max_tokens: int,
        tracker: PerformanceTracker,
        world: World | None = None,
    ) -> Self:
        """Of a policy on the first of the scenarios."""
        score = held_out(policy, judge, scenarios[: settings.scenarios], max_tokens, world)
        return cls(ValidationLoop(settings=settings), tracker, policy.model, score)

    @property
    def stopped(self) -> bool:
        """Whether the loop has seen enough."""
        return self.loop.stop is not None

    def reason(self, steps: int, of: int) -> str:
        """Why training ended after `steps` updates of so many: `no_improvement`, or `done`."""
        return NO_IMPROVEMENT if self.stopped and steps < of else "done"

    def start(self) -> None:
        """Look at the policy that training starts from, unless that was done before a resume; without this look there are
        no others."""
        if self.loop.settings.every and not self.loop.looks and not by_deepspeed(self._model):
            self._look(0)

    def after_update(self, step: int) -> bool:
        """Look if it is time to; says whether to stop."""
        if self.loop.looks and self.loop.due(step):
            self._look(step)
        return self.stopped

    @torch.no_grad()
    def finish(self, step: int) -> None:
        """Look at what came out of `step` updates, and give the model the weights of the best look."""
        if self.loop.looks and self.loop.looks[-1].step < step:
            self._look(step)
        if self._best:
            for parameter, kept in zip(self._trainable(), self._best, strict=True):
                put(parameter, kept)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop |= self.after_update(state.global_step)

    def state(self) -> dict[str, Any]:
        return {"loop": self.loop.state(), "best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        """The state's tensors may be `Stored`, by any number of processes."""
        self.loop.restore(state["loop"])
        self._best = (
            [taken(p, best) for p, best in zip(self._trainable(), state["best"], strict=True)] if state["best"] else []
        )

    def _look(self, step: int) -> None:
        if self.loop.see(step, self._score()):
            self._best = [copied(parameter) for parameter in self._trainable()]
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


def by_deepspeed(model: torch.nn.Module) -> bool:
    """Whether ZeRO-3 holds the model's parameters, out of reach between two of its steps."""
    return any(hasattr(p, "ds_id") for p in model.parameters())

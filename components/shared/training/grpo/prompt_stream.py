"""The order in which prompts are rolled out, with prompts that are predicted to teach nothing skipped.

An endless sequence of permutations by (seed, epoch), as in training/batches.py, so that a run goes on exactly where it
stopped. A prompt whose last z groups had equal rewards throughout comes up with probability explore^z only: GRESO
(arXiv 2506.02177, equation 4), with one fixed exploration probability where the paper adapts two.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from components.shared.training.batches import batches


@dataclass(slots=True)
class PromptStream:
    """Indices of training prompts. `state()` and `restore()` carry it through a checkpoint."""

    rows: int
    """How many prompts there are."""
    seed: int
    explore: float = 1.0
    """Chance that a prompt comes up again after one useless group; 1 never skips."""
    position: int = 0
    """Prompts passed so far, skipped ones included."""
    skipped: int = 0
    dead_streak: dict[int, int] = field(default_factory=dict)
    """Useless groups in a row by prompt, where there are any."""

    def draw(self, count: int) -> list[int]:
        """The next `count` prompts. After a whole epoch of skips the rest is taken as it comes."""
        drawn: list[int] = []
        upcoming = batches(self.rows, 1, self.seed, start=self.position)
        last_chance = self.position + count + self.rows
        while len(drawn) < count:
            [prompt] = next(upcoming)
            if self.position < last_chance and self._predicted_dead(prompt):
                self.skipped += 1
            else:
                drawn.append(prompt)
            self.position += 1
        return drawn

    def observe(self, outcomes: Iterable[tuple[int, bool]]) -> None:
        """Learn which rolled out prompts were of use."""
        for prompt, useful in outcomes:
            if useful:
                self.dead_streak.pop(prompt, None)
            else:
                self.dead_streak[prompt] = self.dead_streak.get(prompt, 0) + 1

    def _predicted_dead(self, prompt: int) -> bool:
        streak = self.dead_streak.get(prompt, 0)
        return streak > 0 and random.Random(f"{self.seed}/skip/{self.position}").random() >= self.explore**streak

    def state(self) -> dict[str, Any]:
        """Everything but what the configuration says, as JSON values."""
        streaks = sorted(self.dead_streak.items())
        return {"position": self.position, "skipped": self.skipped, "dead_streak": [list(item) for item in streaks]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self.position, self.skipped = state["position"], state["skipped"]
        self.dead_streak = dict(state["dead_streak"])

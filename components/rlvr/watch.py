"""The watch for reward hacking: is it the answers that get better, or only their reward?

Every N updates the policy answers the same held-out prompts greedily; what drifts is an alert line. The reward and the
strict checker are written apart, so a reward that rises where the checker does not follow is the plainest sign.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.rlvr.spec import WatchSettings
from components.shared.contracts.records import Scenario
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the watch sees at one moment: means over the prompts."""

    tokens: float
    """Length of an answer."""
    truncated: float
    """Share of answers that were cut off."""
    malformed: float
    """Share that does not follow the model type's schema."""
    reward: float
    check: float
    """The strict checker's score."""
    disagreement: float
    """Share of answers with a full reward that the checker calls wrong."""


class RewardWatch(TrainerCallback):
    """Looks before training and every `settings.every` updates."""

    def __init__(
        self,
        policy: Policy,
        judge: ModelTypeTrainer,
        scenarios: Sequence[Scenario],
        max_tokens: int,
        settings: WatchSettings,
        tracker: PerformanceTracker,
    ):
        self._policy, self._judge, self._scenarios = policy, judge, scenarios
        self._max_tokens, self._settings, self._tracker = max_tokens, settings, tracker
        self._start: Look | None = None
        self.alerts: list[str] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        if self._settings.every and self._start is None:
            self._start = self.look()
            self._record(0, self._start)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        if self._start is not None and state.global_step % self._settings.every == 0:
            look = self.look()
            self._record(state.global_step, look)
            self.alerts += [f"update {state.global_step}: {line}" for line in alarms(self._start, look, self._settings)]

    def look(self) -> Look:
        """Answer the prompts greedily, which draws nothing from any generator, and judge. The model's mode stays."""
        model = self._policy.model
        training = model.training
        answers = complete(self._policy, [s.prompt for s in self._scenarios], max_tokens=self._max_tokens)
        model.train(training)
        lengths = [len(ids) for ids in self._policy.tokenizer(answers, add_special_tokens=False)["input_ids"]]
        judged = list(zip(self._scenarios, answers, strict=True))
        rewards = [self._judge.reward(s, a).total for s, a in judged]
        checks = [self._judge.check(s, a) for s, a in judged]
        return Look(
            tokens=fmean(lengths),
            truncated=fmean(length >= self._max_tokens for length in lengths),
            malformed=fmean(self._judge.parse(s, a) is None for s, a in judged),
            reward=fmean(rewards),
            check=fmean(c.score for c in checks),
            disagreement=fmean(r >= 1.0 and not c.correct for r, c in zip(rewards, checks, strict=True)),
        )

    def state(self) -> dict[str, Any]:
        return {"start": asdict(self._start) if self._start else None, "alerts": self.alerts}

    def restore(self, state: dict[str, Any]) -> None:
        self._start = Look(**state["start"]) if state["start"] else None
        self.alerts = state["alerts"]

    def _record(self, step: int, look: Look) -> None:
        self._tracker.log(step, **{f"watch_{name}": value for name, value in asdict(look).items()})


def alarms(start: Look, now: Look, settings: WatchSettings) -> list[str]:
    """One line for each thing that drifted further from the start than the settings allow."""
    lines = []
    ratio = max(now.tokens, 1.0) / max(start.tokens, 1.0)
    if not 1 / settings.max_length_ratio <= ratio <= settings.max_length_ratio:
        lines.append(f"answers have {now.tokens:.1f} tokens, {start.tokens:.1f} at the start")
    for name in ("truncated", "malformed", "disagreement"):
        before, after = getattr(start, name), getattr(now, name)
        if after - before > settings.max_drift:
            lines.append(f"{name} {after:.2f}, {before:.2f} at the start")
    if (now.reward - start.reward) - (now.check - start.check) > settings.max_drift:
        lines.append(f"reward {start.reward:.2f} -> {now.reward:.2f} but checker {start.check:.2f} -> {now.check:.2f}")
    return lines

"""When to stop, and what to keep: held-out scores during training, beside where training started.

A loop is shown the scores of the same scenarios again and again. The best is the one with the highest mean after the
start, which is no candidate: on so few scenarios chance would often prefer it, and whether what was trained may serve is
for the evaluation to say. A look is an improvement where it is `min_delta` above the best before, the start included, and
after `patience` looks without one training stops. The split is the one for monitoring: what is chosen here is tested
elsewhere, on scenarios that nothing was chosen by.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.errors import GateError, UsageError

NORMAL_95 = 1.959964
"""Standard errors in half of a 95 % interval of a mean."""


class ValidationSettings(BaseModel):
    """How often to look, and when to have seen enough."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    every: int = Field(default=0, ge=0)
    """Updates between two looks, beside those at the start and the end; 0 is never. A model that ZeRO-3 splits is not
    looked at: its parameters are out of reach between two updates."""
    scenarios: int = Field(default=256, ge=1)
    """Held-out scenarios that are answered at each look: which look is best is told from these, and with few of them chance
    tells."""
    patience: int = Field(default=3, ge=1)
    """Looks without an improvement after which training stops."""
    min_delta: float = Field(default=0.0, ge=0, le=1)
    """Mean held-out score by which a look must exceed the best before, to count as an improvement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The policy at one step, beside the policy that training started from."""

    step: int
    score: float
    """Mean over the scenarios."""
    gain: float
    """Mean difference from the start on the same scenarios, with the bounds of its 95 % interval (paired, normal)."""
    gain_low: float
    gain_high: float


@dataclass(kw_only=True)
class ValidationLoop:
    """The looks of one training. Pure: it is told scores and says what follows; its state survives a resume."""

    settings: ValidationSettings
    looks: list[Look] = field(default_factory=list)
    best: Look | None = None
    _baseline_N: list[float] = field(default_factory=list)
    _bar: float = 0.0
    """Score that the next improvement is measured from."""
    _idle: int = 0
    """Looks since the last improvement."""

    def due(self, step: int) -> bool:
        """Whether to look after this update."""
        return self.settings.every > 0 and step % self.settings.every == 0

    def see(self, step: int, scores: Sequence[float]) -> bool:
        """Take in the scores of the scenarios, in their order; says whether this is the best so far.

        The first look is the baseline, the best until there is another. Raises GateError without scenarios, UsageError
        where their number changed.
        """
        if not len(scores):
            raise GateError("validation set is empty: generate validation scenarios (trajectory_generation.counts)")
        if self._baseline_N and len(scores) != len(self._baseline_N):
            raise UsageError(
                f"{len(scores)} scores, {len(self._baseline_N)} at the first look: show the same scenarios"
            )
        self._baseline_N = self._baseline_N or [float(score) for score in scores]
        look = compared(step, scores, self._baseline_N)
        self.looks.append(look)
        improved = self.best is None or look.score > self._bar + self.settings.min_delta
        self._bar = look.score if improved else self._bar
        self._idle = 0 if improved else self._idle + 1
        if len(self.looks) <= 2 or self.best is None or look.score > self.best.score:
            self.best = look
            return True
        return False

    @property
    def stop(self) -> str | None:
        """Why training should stop; none where it should go on."""
        if self._idle < self.settings.patience or self.best is None:
            return None
        return (
            f"no improvement of {self.settings.min_delta:g} in {self._idle} looks: best held-out score "
            f"{self.best.score:.3f} at update {self.best.step}"
        )

    def summary(self) -> dict[str, Any]:
        """The start, the best and the last look, for a report; empty where nothing was looked at."""
        if self.best is None:
            return {}
        shown = {"start": self.looks[0], "best": self.best, "last": self.looks[-1]}
        return {"looks": len(self.looks), **{name: asdict(look) for name, look in shown.items()}, "stop": self.stop}

    def state(self) -> dict[str, Any]:
        return {
            "looks": [asdict(look) for look in self.looks],
            "best": asdict(self.best) if self.best else None,
            "baseline": list(self._baseline_N),
            "bar": self._bar,
            "idle": self._idle,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.looks = [Look(**look) for look in state["looks"]]
        self.best = Look(**state["best"]) if state["best"] else None
        self._baseline_N, self._bar, self._idle = list(state["baseline"]), state["bar"], state["idle"]


def compared(step: int, scores: Sequence[float], baseline: Sequence[float]) -> Look:
    """The scores beside the baseline's, paired by scenario."""
    gains = [ours - theirs for ours, theirs in zip(scores, baseline, strict=True)]
    half = NORMAL_95 * stdev(gains) / sqrt(len(gains)) if len(gains) > 1 else 0.0
    gain = fmean(gains)
    return Look(step=step, score=fmean(scores), gain=gain, gain_low=gain - half, gain_high=gain + half)

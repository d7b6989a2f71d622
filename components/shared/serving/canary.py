"""A canary rollout: 5 % -> 25 -> 50 -> 100 of the sessions, each stage baked, watched by an always-valid test.

A session keeps its arm: its hash is a point in [0, 1), the challenger has those below the share, and the share only grows.
Verifier score, error rate and latency (its logarithm) are each tested for harm at alpha / 3; the first to reject rolls back.
More than 10 % errors among the latest requests roll back at once. At 100 % nobody is left to compare with, so errors alone
are watched. The object decides; swapping and moving traffic is its caller's.
"""

import hashlib
import math
from collections import OrderedDict, deque
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator

from components.shared.contracts.records import Record
from components.shared.serving.sequential_test import SessionSums, harm, log_likelihood_ratio

OPEN_SESSIONS = 20_000
"""Sessions whose running totals are kept; one that returns after that counts as new."""


class Arm(StrEnum):
    """Who answers a session."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


class Status(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Metric(StrEnum):
    """What is compared."""

    SCORE = "score"
    ERROR = "error"
    LATENCY = "latency"


WORSE = {Metric.SCORE: -1, Metric.ERROR: 1, Metric.LATENCY: 1}
"""1 where more is worse."""


class CanaryConfig(BaseModel):
    """How a challenger is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shares: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    """Share of the sessions by stage."""
    bake_s: float = Field(default=900.0, gt=0)
    """Seconds that each stage lasts at least."""
    min_requests: int = Field(default=100, ge=1)
    """Requests that the challenger must have had in a stage before the next."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance to stop an equal challenger, over the whole rollout and all three metrics."""
    score_effect: float = Field(default=0.05, gt=0)
    """Loss of score at which the test is most sensitive."""
    error_effect: float = Field(default=0.02, gt=0)
    """Rise of the error rate at which it is."""
    latency_effect: float = Field(default=0.1, gt=0)
    """Rise of the latency's logarithm at which it is: 0.1 is about 10 %."""
    max_error_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of errors above which the challenger goes at once."""
    error_window: int = Field(default=200, ge=1)
    """The latest requests among which errors are counted."""
    min_error_requests: int = Field(default=30, ge=1)
    """Requests before that count means anything."""

    @field_validator("shares")
    @classmethod
    def _rise_to_all(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or shares[-1] != 1.0 or sorted(set(shares)) != list(shares) or shares[0] <= 0:
            raise ValueError(f"{shares} must rise from above 0 to 1")
        return shares

    def tau(self, metric: Metric) -> float:
        return {
            Metric.SCORE: self.score_effect,
            Metric.ERROR: self.error_effect,
            Metric.LATENCY: self.latency_effect,
        }[metric]


class CanaryState(Record):
    """A rollout as it is kept across restarts."""

    name: str
    """What is rolled out; it also salts the assignment."""
    stage: int = 0
    stage_began: float
    """When the stage began, in the caller's seconds."""
    sums: tuple[dict[Metric, dict[Arm, SessionSums]], ...] = ()
    """By stage."""
    challenger_requests: int = 0
    """In this stage."""
    recent_errors: tuple[bool, ...] = ()
    status: Status = Status.RUNNING
    reason: str = ""


class Canary:
    """One rollout. Times are the caller's seconds; nothing here looks at a clock."""

    def __init__(self, config: CanaryConfig, state: CanaryState):
        self.config = config
        self.name, self.stage, self._began = state.name, state.stage, state.stage_began
        self.status, self.reason = state.status, state.reason
        self._requests = state.challenger_requests
        self._errors = deque(state.recent_errors, maxlen=config.error_window)
        self._sums = [{metric: dict(arms) for metric, arms in stage.items()} for stage in state.sums]
        self._sums += [_empty() for _ in range(len(config.shares) - len(self._sums))]
        self._sessions: OrderedDict[tuple[str, Metric], tuple[int, float]] = OrderedDict()

    @property
    def state(self) -> CanaryState:
        """What `Canary` starts from again; sessions that are open count as new afterwards."""
        return CanaryState(
            name=self.name,
            stage=self.stage,
            stage_began=self._began,
            sums=tuple({metric: dict(arms) for metric, arms in stage.items()} for stage in self._sums),
            challenger_requests=self._requests,
            recent_errors=tuple(self._errors),
            status=self.status,
            reason=self.reason,
        )

    @property
    def share(self) -> float:
        """Share of the sessions that the challenger has now."""
        if self.status == Status.RUNNING:
            return self.config.shares[self.stage]
        return 1.0 if self.status == Status.PROMOTED else 0.0

    def arm(self, session: str) -> Arm:
        """The session's arm: the same for as long as the rollout runs, but that a growing share may take it over."""
        digest = hashlib.blake2b(f"{self.name}/{session}".encode(), digest_size=8).digest()
        return Arm.CHALLENGER if int.from_bytes(digest) / 2**64 < self.share else Arm.CHAMPION

    def observe(self, arm: Arm, session: str, *, error: bool, latency_ms: float, score: float | None) -> None:
        """Count one request; an error has neither latency nor score."""
        values = {Metric.ERROR: float(error)}
        if not error:
            values[Metric.LATENCY] = math.log(max(latency_ms, 1e-3))
            if score is not None:
                values[Metric.SCORE] = score
        for metric, value in values.items():
            n, t = self._sessions.pop((session, metric), (0, 0.0))
            arms = self._sums[self.stage][metric]
            arms[arm] = arms[arm].with_value(value, n, t)
            self._sessions[session, metric] = (n + 1, t + value)
        while len(self._sessions) > OPEN_SESSIONS:
            self._sessions.popitem(last=False)
        if arm == Arm.CHALLENGER:
            self.count_challenger([error])

    def add(self, metric: Metric, arm: Arm, sums: SessionSums) -> None:
        """Count whole sessions at once, as sums."""
        arms = self._sums[self.stage][metric]
        arms[arm] = arms[arm].changed(sums.sessions, sums.n, sums.t, sums.nn, sums.nt, sums.tt)

    def count_challenger(self, errors: list[bool]) -> None:
        """Count requests of the challenger, in order, and roll back where too many fail."""
        self._requests += len(errors)
        for error in errors:
            self._errors.append(error)
            failed, count = sum(self._errors) if error else 0, len(self._errors)
            too_many = count >= self.config.min_error_requests and failed > self.config.max_error_rate * count
            if too_many and self.status == Status.RUNNING:
                self._roll_back(f"{failed} of the latest {count} requests failed")

    def decide(self, now: float) -> Status:
        """Look at the evidence: roll back on harm, go on to the next stage when this one is baked."""
        if self.status != Status.RUNNING:
            return self.status
        for metric in Metric:
            if found := harm([(s[metric][Arm.CHAMPION], s[metric][Arm.CHALLENGER]) for s in self._sums], WORSE[metric]):
                d, V = found
                if log_likelihood_ratio(d, V, self.config.tau(metric)) > math.log(len(Metric) / self.config.alpha):
                    self._roll_back(f"{metric} is worse by {d:.4g} +- {1.96 * math.sqrt(V):.2g}")
                    return self.status
        if now - self._began >= self.config.bake_s and self._requests >= self.config.min_requests:
            self._advance(now)
        return self.status

    def _advance(self, now: float) -> None:
        if self.stage + 1 == len(self.config.shares):
            self.status, self.reason = Status.PROMOTED, "every stage is baked and no harm was found"
            return
        self.stage += 1
        self._began, self._requests = now, 0
        # A session that goes on in a new stage is a new one there: strata must not share it.
        self._sessions.clear()

    def _roll_back(self, reason: str) -> None:
        self.status, self.reason = Status.ROLLED_BACK, f"at {self.share:.0%}: {reason}"


def start(config: CanaryConfig, name: str, now: float) -> Canary:
    """A rollout that begins now."""
    return Canary(config, CanaryState(name=name, stage_began=now))


def _empty() -> dict[Metric, dict[Arm, SessionSums]]:
    return {metric: {arm: SessionSums() for arm in Arm} for metric in Metric}

"""Which tier is worth it: quality, cost, latency and availability weighed against each other.

    utility = 0.4 quality + 0.25 (1 - usd / usd_scale) + 0.2 (1 - ms / ms_scale) + 0.15 availability

Every term lies in [0, 1]; a request that costs `usd_scale`, or takes `ms_scale`, earns nothing for it. A tier above the cost
cap is out whatever its utility.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark

CHARACTERS_A_TOKEN = 4
"""English text in the tokenizers of the base models; an estimate, before a tokenizer has seen the prompt."""


class ChoiceConfig(BaseModel):
    """How a choice is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    quality: float = Field(default=0.4, ge=0)
    cost: float = Field(default=0.25, ge=0)
    latency: float = Field(default=0.2, ge=0)
    availability: float = Field(default=0.15, ge=0)
    usd_scale: float = Field(default=0.002, gt=0)
    """Cost of a request, in USD, that earns nothing."""
    ms_scale: float = Field(default=5000.0, gt=0)
    """Time of a whole answer, in ms, that earns nothing."""
    max_request_usd: float = Field(default=0.05, gt=0)
    """What no request may be estimated to cost."""
    max_hourly_usd: float = Field(default=20.0, gt=0)
    """What one key may spend in a rolling hour."""

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> "ChoiceConfig":
        total = self.quality + self.cost + self.latency + self.availability
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights quality, cost, latency and availability sum to {total:g}: make it 1")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a tier is expected to do with a request."""

    tier: Tier
    quality: float
    """Expected score in [0, 1]."""
    usd: float
    ms: float
    """Time of the whole answer."""
    availability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A candidate with its utility, and why it is out where it is."""

    candidate: Candidate
    utility: float
    excluded: str | None = None


def estimate(
    benchmark: Benchmark, *, complexity: float | None, characters: int, max_tokens: int, availability: float
) -> Candidate:
    """A tier's expected quality, cost and time for a prompt of that many characters.

    Without a complexity the mean quality is expected.
    """
    tokens = min(float(max_tokens), benchmark.completion_tokens)
    prompt = characters / CHARACTERS_A_TOKEN
    return Candidate(
        tier=benchmark.tier,
        quality=benchmark.quality
        if complexity is None
        else expected_quality(benchmark.quality_by_complexity, complexity),
        usd=usd(benchmark, prompt, tokens),
        ms=benchmark.first_token_ms + tokens * benchmark.token_ms,
        availability=availability,
    )


def usd(benchmark: Benchmark, prompt_tokens: float, completion_tokens: float) -> float:
    """What a request costs, in USD."""
    return (
        prompt_tokens * benchmark.usd_per_million_input_tokens
        + completion_tokens * benchmark.usd_per_million_output_tokens
    ) / 1e6


def expected_quality(bins: Sequence[float], complexity: float) -> float:
    """The measured quality at a complexity: straight lines between the middles of the bins."""
    middles = [(i + 0.5) / len(bins) for i in range(len(bins))]
    if complexity <= middles[0]:
        return bins[0]
    for (left, right), (low, high) in zip(pairwise(middles), pairwise(bins), strict=True):
        if complexity <= right:
            return low + (high - low) * (complexity - left) / (right - left)
    return bins[-1]


def rank(candidates: Iterable[Candidate], config: ChoiceConfig, max_usd: float) -> list[Ranked]:
    """The candidates by utility, the best first, those above the cap last; equals by cost, then by name."""
    ranked = [
        Ranked(
            candidate=c,
            utility=config.quality * c.quality
            + config.cost * (1 - min(1.0, c.usd / config.usd_scale))
            + config.latency * (1 - min(1.0, c.ms / config.ms_scale))
            + config.availability * c.availability,
            excluded=f"{c.usd:.6f} USD is above the cap of {max_usd:.6f} USD" if c.usd > max_usd else None,
        )
        for c in candidates
    ]
    return sorted(ranked, key=lambda r: (r.excluded is not None, -r.utility, r.candidate.usd, r.candidate.tier))


class Budget:
    """What one key has spent in the last hour, in USD."""

    def __init__(self, limit_usd: float, clock: Callable[[], float]):
        self._limit, self._clock = limit_usd, clock
        self._spent: deque[tuple[float, float]] = deque()
        self._total = 0.0

    @property
    def left(self) -> float:
        """USD that may still be spent now."""
        while self._spent and self._spent[0][0] <= self._clock() - 3600:
            self._total -= self._spent.popleft()[1]
        if not self._spent:
            self._total = 0.0
        return max(0.0, self._limit - self._total)

    def spend(self, amount: float) -> None:
        self._spent.append((self._clock(), amount))
        self._total += amount

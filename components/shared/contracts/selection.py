"""What a tier is measured to be worth for a model type: the selector writes it, the router reads it.

One JSON file holds one `SelectionTable`. It takes effect once it names who accepted it.
"""

from pydantic import Field, field_validator

from components.shared.contracts.records import Record, Score, Tier, content_id


class Measured(Record):
    """How one policy serves, measured on the machine that serves it."""

    model_type: str
    tier: Tier
    policy: str
    """Digest of the policy's manifest."""
    base_model: str
    parameters: int = Field(ge=1)
    """Parameters of base model and adapter together."""
    instance: str
    """The machine, as the price list names it."""
    input_tokens_per_s: float = Field(gt=0)
    """Prompt tokens that the whole machine takes a second at the load of the measurement."""
    output_tokens_per_s: float = Field(gt=0)
    """Tokens that the whole machine writes a second at that load."""
    first_token_ms: float = Field(ge=0.0)
    """Median time to the first token."""
    token_ms: float = Field(ge=0.0)
    """Median time a further token."""
    completion_tokens: float = Field(gt=0.0)
    """Mean length of an answer."""
    samples: int = Field(ge=1)
    """Requests measured."""


class Benchmark(Record):
    """One policy on one tier, as measured on held-out scenarios of one model type."""

    model_type: str
    tier: Tier
    trainer: str
    """The trainer that the model type's policies are made with on this tier."""
    base_model: str
    policy: str
    """Digest of the policy's manifest."""
    quality: float = Score
    """Mean held-out score."""
    quality_low: float = Score
    """Its lower confidence bound."""
    samples: int = Field(ge=1)
    quality_by_complexity: tuple[float, ...] = Field(min_length=1)
    """Mean score in equal bins of complexity over [0, 1], the simplest first."""
    usd_per_million_input_tokens: float = Field(ge=0.0)
    usd_per_million_output_tokens: float = Field(ge=0.0)
    first_token_ms: float = Field(ge=0.0)
    """Median time to the first token."""
    token_ms: float = Field(ge=0.0)
    """Median time a further token."""
    completion_tokens: float = Field(gt=0.0)
    """Mean length of an answer."""

    @field_validator("quality_by_complexity")
    @classmethod
    def _scores(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.0 <= value <= 1.0 for value in values):
            raise ValueError("each must be a score in [0, 1]")
        return values


class Calibration(Record):
    """How complexity follows from a prompt's features: a logistic model of the smallest tier doing worse than the best."""

    model_type: str
    weights: dict[str, float]
    """By feature name, on standardised features; a feature without a weight does not count."""
    means: dict[str, float]
    scales: dict[str, float]
    bias: float
    samples: int = Field(ge=1)


class SelectionTable(Record):
    """What the router chooses by, whole and at one time."""

    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    calibrations: tuple[Calibration, ...]
    accepted_by: str | None = None
    """Who or which gate accepted it; none for a proposal, which nothing routes by."""
    replaces: str | None = None
    """Version of the table before it: the way back."""
    reasons: tuple[str, ...] = ()
    """One line for each change against the table before."""

    @property
    def version(self) -> str:
        """Identity of what it says, whoever accepted it."""
        return content_id(
            [b.model_dump(mode="json") for b in self.benchmarks], [c.model_dump() for c in self.calibrations]
        )

"""What a night's training scenarios are to be made of, as a configuration says it."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.contracts.weakness import WeaknessReport


class ExampleKind(StrEnum):
    """Where a training scenario comes from."""

    COLLABORATIVE = "collaborative"
    SYNTHETIC = "synthetic"
    NEAR_MISS = "near_miss"
    FORBIDDEN = "forbidden"
    INJECTION = "injection"


class ExamplesConfig(BaseModel):
    """Shares of the training scenarios by kind; the rest is collaborative. Validation and test are always drawn plainly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    synthetic: float = Field(default=0.0, ge=0, le=1)
    near_miss: float = Field(default=0.0, ge=0, le=1)
    forbidden: float = Field(default=0.0, ge=0, le=1)
    injection: float = Field(default=0.0, ge=0, le=1)
    difficulty: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest difficulty of a training scenario."""
    weaknesses: WeaknessReport | None = None
    """What the last evaluation found; none for no curriculum."""
    emphasis: float = Field(default=4.0, ge=0)
    """How much more a scenario counts that always fails."""
    pool: int = Field(default=3, ge=1)
    """Scenarios to draw for each that is wanted, where there is something to choose by."""

    @model_validator(mode="after")
    def _shares(self) -> "ExamplesConfig":
        if self.synthetic + self.near_miss + self.forbidden + self.injection > 1:
            raise ValueError("the shares of all kinds make up more than 1")
        if not 0 <= self.difficulty[0] <= self.difficulty[1] <= 1:
            raise ValueError("difficulty is not [lowest, highest] in [0, 1]")
        return self

    @property
    def plain(self) -> bool:
        """Whether there is nothing to choose by, so that scenarios are taken as they are drawn."""
        return self == ExamplesConfig(emphasis=self.emphasis, pool=self.pool)

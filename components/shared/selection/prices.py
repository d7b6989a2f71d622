"""configs/prices.yaml: what a machine costs, as of when, and who says so."""

from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import unknown
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping


class Price(BaseModel):
    """One machine's price by the hour, in USD."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usd_per_hour: float = Field(ge=0)
    """What is planned with."""
    low: float | None = Field(default=None, ge=0)
    """Lowest and highest that sources say; the price itself where they agree."""
    high: float | None = Field(default=None, ge=0)
    source: str = Field(min_length=1)

    @property
    def range(self) -> tuple[float, float]:
        return (
            self.usd_per_hour if self.low is None else self.low,
            self.usd_per_hour if self.high is None else self.high,
        )

    @model_validator(mode="after")
    def _in_range(self) -> "Price":
        low, high = self.range
        if not low <= self.usd_per_hour <= high:
            raise ValueError(f"usd_per_hour {self.usd_per_hour:g} is not in [{low:g}, {high:g}]")
        return self


class SpotSaving(BaseModel):
    """What Spot is expected to save where no job has measured it yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(ge=0, lt=1)
    """Of the on-demand price."""
    source: str = Field(min_length=1)


class ServicePrice(BaseModel):
    """One service's price a unit, in USD."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usd: float = Field(ge=0)
    unit: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Prices(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    instances: dict[str, Price] = Field(min_length=1)
    spot_saving: SpotSaving = SpotSaving(share=0.0, source="nothing is expected")
    services: dict[str, ServicePrice] = {}

    def of(self, instance: str) -> Price:
        """Raises UsageError for a machine without a price: nothing is free because nobody wrote it down."""
        if instance not in self.instances:
            raise unknown("price of an instance type", instance, self.instances)
        return self.instances[instance]


def load_prices(file: Path | None = None) -> Prices:
    """The prices in `file`, by default configs/prices.yaml. Raises UsageError for a malformed one."""
    path = file or configs_root() / "prices.yaml"
    return parse_config(Prices, read_mapping(path), path.name)

"""A hard budget in USD and tokens: a request is sent only if even its dearest answer still fits.

Each request reserves the most that it can cost before it is sent, and what is left of that comes back with the answer. So
the budget holds whatever arrives at once, and a run that meets it ends early instead of late.
"""

from dataclasses import dataclass

from components.shared.collaboration.teacher_config import BudgetConfig
from components.shared.contracts.errors import PipelineError


class BudgetExhausted(PipelineError):
    """No room for another request: this scenario has no result."""

    rule = "budget"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a request takes, or can take at most."""

    usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(usd=self.usd + other.usd, tokens=self.tokens + other.tokens)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(usd=self.usd - other.usd, tokens=self.tokens - other.tokens)

    def __mul__(self, times: int) -> "Cost":
        return Cost(usd=self.usd * times, tokens=self.tokens * times)


@dataclass
class Bill:
    """What one scenario has cost so far."""

    cost: Cost = Cost()


class Budget:
    """What a run may still use. All teachers of a run share one."""

    def __init__(self, limit: BudgetConfig | None = None):
        self.limit = limit or BudgetConfig()
        self.spent = Cost()
        self.reserved = Cost()
        self.exhausted = False
        """Set by the first request that found no room, and never taken back: the run then winds down."""

    def reserve(self, most: Cost) -> None:
        """Hold `most` back for a request. Raises BudgetExhausted where it does not fit."""
        total = self.spent + self.reserved + most
        over = [
            f"{limit:g} {unit}"
            for limit, value, unit in ((self.limit.usd, total.usd, "USD"), (self.limit.tokens, total.tokens, "tokens"))
            if limit is not None and value > limit
        ]
        if over or self.exhausted:
            self.exhausted = True
            raise BudgetExhausted(
                f"the budget of {' and '.join(over) or 'this run'} has no room for another request "
                f"({self.spent.usd:.4f} USD, {self.spent.tokens} tokens spent): raise it and run again, "
                f"what is answered is not asked again"
            )
        self.reserved += most

    def settle(self, most: Cost, actual: Cost) -> None:
        """Give back a reservation and count what the request took."""
        self.reserved -= most
        self.spent += actual

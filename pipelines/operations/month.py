"""What a month of nights costs: the calendar of step_functions/source/nightly.yaml over the plans of what it starts.

A plan of one execution says nothing of how often it is started: the month holds every model type's runs, at their time
limits and with Spot's expected saving, against the budget of which AWS tells by its bill.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts.records import Tier
from pipelines.job_settings import Nights
from pipelines.operations.plan import MONTH_HOURS, Plan, make_plan

NIGHTS = MONTH_HOURS / 24
CALENDAR = {
    ("post_training", Tier.BRONZE): NIGHTS / 7,
    ("post_training", Tier.SILVER): NIGHTS,
    ("post_training", Tier.GOLD): NIGHTS,
    ("distillation", Tier.SILVER): NIGHTS,
    ("distillation", Tier.GOLD): NIGHTS,
}
"""Times in a month of 730 hours that a model type's DAG is started on a tier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Month:
    """A month of one environment."""

    environment: str
    nights: Nights
    plans: Mapping[tuple[str, Tier], Plan]
    """Of everything in the calendar."""

    def usd(self, kind: str) -> float:
        """Of all model types, expected (`usd`) or at the time limits (`usd_planned`)."""
        a_type = sum(getattr(step, kind) * CALENDAR[key] for key, plan in self.plans.items() for step in plan.steps)
        return len(self.nights.model_types) * a_type

    @property
    def refusals(self) -> list[str]:
        """Why such a month is refused, in one line; none where nights are started by hand, or it keeps to its budget."""
        usd, budget = self.usd("usd_planned"), self.nights.monthly_budget_usd
        if not self.nights.scheduled or usd <= budget:
            return []
        types = len(self.nights.model_types)
        fits = int(budget * types / usd)
        remedy = f"train {fits} of its {types} model types" if fits else "lower the tiers' jobs.*.max_runtime_s"
        return [
            f"month: {usd:,.0f} USD at the time limits, over the {budget:,.0f} USD of nights.monthly_budget_usd "
            f"(configs/environments/{self.environment}.yaml): raise it, or {remedy}"
        ]


def plan_calendar(environment: str, runs: Path) -> dict[tuple[str, Tier], Plan]:
    """The plan of everything in the calendar. Raises what `make_plan` raises."""
    return {(dag, tier): make_plan(dag, environment, tier, runs) for dag, tier in CALENDAR}

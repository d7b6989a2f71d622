"""`srl-rlvr plan --break-even FILE`: when a policy's training has paid for itself, from what was measured of two policies.

FILE is YAML or JSON:

    option:   {benchmark: {...}, measured: {...}, training_usd: 118.0}    # benchmark, measured: contracts/selection.py
    baseline: {benchmark: {...}, measured: {...}, training_usd: 0}
    traffic:  {requests_a_month: 1e6, input_tokens: 400, output_tokens: 120, utilisation: 0.4}
"""

from pathlib import Path

from pydantic import Field
from rich import box
from rich.table import Table

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.records import Record
from components.shared.contracts.selection import Benchmark, Measured
from components.shared.selection.cost_benefit_analyzer import CostBenefit, Traffic, analyze, option
from components.shared.selection.prices import load_prices
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping


class Candidate(Record):
    """One policy with what is known of it."""

    benchmark: Benchmark
    measured: Measured
    training_usd: float = Field(ge=0)


class Question(Record):
    """The whole file."""

    option: Candidate
    baseline: Candidate
    traffic: Traffic


def break_even(file: Path) -> CostBenefit:
    """Answer a file. Raises UsageError for a malformed one, or a machine without a price or sizes."""
    asked = parse_config(Question, read_mapping(file), str(file))
    prices = load_prices()
    ours, theirs = (option(c.benchmark, c.measured, c.training_usd, prices) for c in (asked.option, asked.baseline))
    sizes = read_mapping(configs_root() / "instances.yaml")["instances"]
    return analyze(ours, theirs, asked.traffic, prices, sizes)  # type: ignore[arg-type]


def break_even_table(found: CostBenefit) -> Table:
    """Every figure with its unit."""
    table = Table(title=f"{found.option[:12]} beside {found.baseline[:12]}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("what", "value", "unit"):
        table.add_column(column, justify="right" if column == "value" else "left")
    never = "never"

    def row(what: str, value: float | None, unit: str, digits: int = 0) -> None:
        table.add_row(what, never if value is None else f"{value:,.{digits}f}", unit)

    row("cost of the option", found.usd_per_thousand_requests, "USD / 1,000 requests", 4)
    row("cost of the baseline", found.baseline_usd_per_thousand_requests, "USD / 1,000 requests", 4)
    row("saving", found.saving_usd_per_month, "USD / month", 2)
    row("training", found.training_usd, "USD", 2)
    row("training pays for itself after", found.break_even_requests, "requests")
    row("", found.break_even_months, "months", 2)
    row("own machine", found.hosting_usd_per_month, "USD / month", 2)
    row("own machine pays from", found.hosting_break_even_requests_per_month, "requests / month")
    row("quality difference", found.quality_difference, "mean held-out score", 4)
    row("memory needed", found.hardware.needed_gib, f"GiB of {found.hardware.present_gib:,.0f}", 1)
    for item in found.sensitivity:
        ends = [
            never if end is None else f"{end:,.0f}"
            for end in (item.break_even_low_requests, item.break_even_high_requests)
        ]
        table.add_row(
            f"with {item.what} of {item.low:,.4g} to {item.high:,.4g} {item.unit}", " to ".join(ends), "requests"
        )
    return table

"""A plan for people, as tables, and for machines, as data."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.operations.memory import StepMemory
from pipelines.operations.month import Month
from pipelines.operations.nearest import Nearest
from pipelines.operations.plan import Plan, StepPlan, service_usd


def refusals(plan: Plan, month: Month | None) -> list[str]:
    """Why it is refused, a line a reason: the execution itself, or a month of such nights."""
    return [*plan.refusals, *(month.refusals if month else ())]


def as_data(plan: Plan, found: Mapping[Any, Nearest | None], month: Month | None = None) -> dict[str, Any]:
    """The plan as JSON has it; every key ends in its unit."""
    return {
        "dag": plan.dag,
        "pipeline": plan.pipeline,
        "environment": plan.environment,
        "region": plan.region,
        "prices_as_of": plan.prices.as_of.isoformat(),
        "accepted": not refusals(plan, month),
        "refusals": refusals(plan, month),
        "nearest": {
            tier: None if near is None else {"changes": list(near.changes), "usd_at_limits": round(near.usd, 2)}
            for tier, near in found.items()
        },
        "skip_gate": plan.skip_gate,
        "steps": [step_data(step) for step in plan.steps],
        "usd_expected": round(plan.usd, 2),
        "usd_at_most": round(plan.usd_at_most, 2),
        "on_demand_usd_at_most": plan.on_demand_usd_at_most,
        "budgets": {
            tier: {"usd_at_limits": round(plan.planned_usd(tier), 2), "budget_usd": budget}
            for tier, budget in plan.budgets_usd.items()
        },
        "month": month
        and {
            "model_types": list(month.nights.model_types),
            "usd_expected": round(month.usd("usd"), 2),
            "usd_at_limits": round(month.usd("usd_planned"), 2),
            "budget_usd": month.nights.monthly_budget_usd,
            "scheduled": month.nights.scheduled,
        },
        "teacher_usd_at_most": plan.teacher_usd_at_most,
        "spot_saving_share": plan.spot_saving,
        "quotas_instances": dict(plan.quotas),
        "state_transitions": plan.transitions,
        "s3_gib": round(plan.storage_gib, 1),
        "services_usd": {name: round(usd, 4) for name, usd in service_usd(plan).items()},
    }


def step_data(step: StepPlan) -> dict[str, Any]:
    job, memory = step.job, step.memory
    return {
        "step": job.step,
        "tier": job.tier,
        "job": job.kind,
        "instance": job.instance,
        "count": job.count,
        "spot": job.spot,
        "strategy": step.strategy,
        "hours_expected": round(step.hours, 3),
        "hours_from": step.hours_from,
        "hours_at_most": round(step.hours_at_most, 3),
        "usd_expected": round(step.usd, 2),
        "usd_at_most": round(step.usd_at_most, 2),
        "memory": memory
        and {
            "model": memory.model,
            "processes": memory.processes,
            "rows": memory.rows,
            "needed_gib": round(memory.needed_gib, 2),
            "usable_gib": round(memory.usable_gib, 2),
            "fits": memory.fits,
            "parts_gib": {name: round(value, 2) for name, value in memory.parts_gib.items()},
        },
    }


def show(plan: Plan, found: Mapping[Any, Nearest | None], month: Month | None, console: Console) -> None:
    """Print the plan, and where it is refused why, and what would do."""
    console.print(steps_table(plan), money_table(plan))
    if month is not None:
        how = "scheduled" if month.nights.scheduled else "started by hand"
        console.print(
            f"[bold]A month[/] of nights, {how}, for {len(month.nights.model_types)} model types: "
            f"{month.usd('usd'):,.0f} USD expected, {month.usd('usd_planned'):,.0f} at the time limits, budget "
            f"{month.nights.monthly_budget_usd:,.0f}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        "[bold]Service quotas[/], instances for one execution; a night runs one a model type at the same time"
    )
    for name, count in plan.quotas.items():
        console.print(f"  {name}: {count}", highlight=False)
    sources = dict.fromkeys(f"{s.job.step}: {s.hours_from}" for s in plan.steps if s.memory is not None)
    console.print("[bold]Hours[/] of what trains")
    for line in sources:
        console.print(f"  {line}", highlight=False)
    console.print(f"[bold]Skip gate[/] {plan.skip_gate}", highlight=False)
    for line in refusals(plan, month):
        console.print(f"[red]refused[/] {line}", highlight=False, soft_wrap=True)
    for tier, near in found.items():
        if near is None:
            console.print(f"[bold]nearest[/] {tier}: no machine of configs/instances.yaml would do", highlight=False)
            continue
        console.print(f"[bold]nearest[/] {tier}: {near.usd:,.0f} USD at the time limits, with", highlight=False)
        for change in near.changes:
            console.print(f"  {change}", highlight=False, markup=False)


def steps_table(plan: Plan) -> Table:
    title = f"{plan.pipeline} in {plan.region}, prices of {plan.prices.as_of:%Y-%m-%d}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("step", "machines", "h, at most", "USD, at most", "GiB a GPU"):
        names = column in ("step", "machines")
        table.add_column(column, justify="left" if names else "right", no_wrap=names)
    for step in plan.steps:
        job = step.job
        machines = f"{job.count} {job.instance.removeprefix('ml.')}{' Spot' if job.spot else ''}"
        hours = f"{step.hours:.1f}, {step.hours_at_most:.1f}"
        table.add_row(job.step, machines, hours, f"{step.usd:,.2f}, {step.usd_at_most:,.2f}", fit(step.memory))
    table.add_section()
    hours = f"{sum(s.hours for s in plan.steps):.1f}, {sum(s.hours_at_most for s in plan.steps):.1f}"
    table.add_row("all", "", hours, f"{plan.usd:,.2f}, {plan.usd_at_most:,.2f}", "")
    return table


def money_table(plan: Plan) -> Table:
    table = Table(title="Beside the machines, and the budget", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("how much", justify="right")
    table.add_column("USD", justify="right")
    beside = service_usd(plan)
    table.add_row("state transitions", f"{plan.transitions:,}", f"{beside['transitions']:.2f}")
    table.add_row("the teacher's answers, at most", "", f"{plan.teacher_usd_at_most:.2f}")
    table.add_row("volumes", "", f"{beside['volumes']:.2f}")
    table.add_row(
        "policies and checkpoints on S3, a month", f"{plan.storage_gib:,.0f} GiB", f"{beside['storage_a_month']:.2f}"
    )
    for tier, budget in plan.budgets_usd.items():
        limit = "none" if budget is None else f"{budget:,.0f} USD"
        spot = f", Spot saving {plan.spot_saving:.0%} (expected)" if any(s.job.spot for s in plan.steps) else ""
        table.add_row(f"{tier} at its time limits{spot}", f"budget {limit}", f"{plan.planned_usd(tier):,.2f}")
    if plan.on_demand_usd_at_most is not None:
        table.add_row("without Spot at the time limits", "the fallback", f"{plan.on_demand_usd_at_most:,.2f}")
    return table


def fit(memory: StepMemory | None) -> str:
    """What a step needs of each GPU, and whether that is there; nothing for one without a model."""
    if memory is None:
        return ""
    mark = "[green]✓[/]" if memory.fits else "[red]✗[/]"
    return f"{memory.needed_gib:.1f} of {memory.usable_gib:.1f} {mark}"

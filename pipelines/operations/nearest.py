"""The nearest plan that would be accepted: searched, not guessed.

Every step may get another instance type, another number of machines, another strategy, fewer rows in one pass, or Spot.
Combinations that do not fit the GPUs are dropped; a time limit goes along with the GPUs' peak rate, so that a slower machine
costs its longer hours. Of what remains, the plan with the fewest changes that keeps to the budget is taken, the cheapest of
equals.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from components.shared.selection.prices import Prices
from pipelines.definitions.composer import Task
from pipelines.job_settings import DAY, Instance, instances
from pipelines.operations.costs import JobRequest
from pipelines.operations.memory import divisors, placement, setting, step_memory
from pipelines.operations.plan import Plan, StepPlan, with_job

COUNTS = (1, 2, 4, 8)
RANK = 64
"""Rank of an adapter, as the specification has for the largest models."""
LIMIT = 28 * DAY
"""The longest that SageMaker lets a training job run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One way to run a step."""

    step: StepPlan
    changes: tuple[str, ...]
    """What is different, a key of the tier's file and its value each; empty for the step as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """A tier's steps, changed as little as will do."""

    tier: Tier
    changes: tuple[str, ...]
    usd: float
    """At the time limits, Spot at its expected saving."""


def nearest(plan: Plan) -> dict[Tier, Nearest | None]:
    """For each tier at fault, the nearest plan that would do; none where the known machines offer none."""
    faulty = {*plan.over_budget, *(step.tier for step in plan.unfit)}
    return {tier: nearest_of(plan, tier) for tier in plan.budgets_usd if tier in faulty}


def nearest_of(plan: Plan, tier: Tier) -> Nearest | None:
    """Fold the tier's steps: for each number of changes, the cheapest way to run all of them so far."""
    budget = plan.budgets_usd[tier]
    best: dict[int, tuple[float, tuple[str, ...]]] = {0: (0.0, ())}
    for step in (step for step in plan.steps if step.tier == tier):
        options = cheapest(step, plan)
        folded: dict[int, tuple[float, tuple[str, ...]]] = {}
        for (done, (usd, changes)), (more, choice) in itertools.product(best.items(), options.items()):
            total = usd + choice.step.usd_planned
            if done + more not in folded or total < folded[done + more][0]:
                folded[done + more] = (total, (*changes, *choice.changes))
        best = folded
    within = [(n, usd, changes) for n, (usd, changes) in best.items() if budget is None or usd <= budget]
    if not within:
        return None
    _, usd, changes = min(within)
    return Nearest(tier=tier, changes=changes, usd=usd)


def cheapest(step: StepPlan, plan: Plan) -> Mapping[int, Choice]:
    """By number of changes, the cheapest way to run a step that fits."""
    found: dict[int, Choice] = {}
    for choice in choices(step, plan):
        fits = choice.step.memory is None or choice.step.memory.fits
        known = found.get(len(choice.changes))
        if fits and (known is None or choice.step.usd_planned < known.step.usd_planned):
            found[len(choice.changes)] = choice
    return found


def choices(step: StepPlan, plan: Plan) -> Iterator[Choice]:
    """Every way to run a step on the machines that are known, priced and offered in the region."""
    yield Choice(step=step, changes=())
    task, job = step.task, step.job
    if task is None or step.memory is None:
        return
    counts = COUNTS if task.spec.spread else (1,)
    strategies = (step.strategy, *(s for s in (Strategy.FSDP, Strategy.DEEPSPEED) if s != step.strategy))
    machines = {name: i for name, i in instances().items() if usable(name, i, job, plan.region, plan.prices)}
    for (name, instance), count, strategy, divided, rank, spot in itertools.product(
        machines.items(),
        counts,
        strategies if task.spec.spread else (step.strategy,),
        divisors(task),
        ranks(task),
        spots(job),
    ):
        seconds = round(job.seconds_at_most * rate(job.instance, job.count, step) / rate(name, count, step))
        config = task.config.model_copy(update={} if rank is None else {"lora_rank": rank})
        if seconds > LIMIT or (task.spec.spread and config.refuses(strategy) is not None):
            continue
        other = replace(job, instance=name, count=count, spot=spot, seconds_at_most=seconds)
        where = replace(placement(instance, count, strategy), rows_divided_by=divided, lora_rank=rank)
        changed = with_job(step, other, plan.prices, strategy=strategy, memory=step_memory(task, step.tier, where))
        yield Choice(step=changed, changes=tuple(differences(step, changed, divided, rank)))


def usable(name: str, instance: Instance, job: JobRequest, region: str, prices: Prices) -> bool:
    return bool(instance.gpus) and job.kind in instance.jobs and region in instance.regions and name in prices.instances


def spots(job: JobRequest) -> tuple[bool, ...]:
    """Spot is for training; a job that is on it stays."""
    if job.kind != Job.TRAINING:
        return (False,)
    return (True,) if job.spot else (False, True)


def rate(instance: str, count: int, step: StepPlan) -> float:
    """Peak of the GPUs that a step puts to work, in TFLOPS."""
    found = instances()[instance]
    gpus = found.gpus * count if step.task is not None and step.task.spec.spread else 1
    return found.gpu_tflops * gpus


def ranks(task: Task) -> tuple[int | None, ...]:
    """An adapter in place of the whole model, where the stage trains either; none for what it does now."""
    return (None, RANK) if getattr(task.config, "lora_rank", 0) is None else (None,)


def differences(before: StepPlan, after: StepPlan, divided: int, rank: int | None) -> Iterator[str]:
    """The keys to change, as the tier's file has them."""
    where = f"jobs.stages.{before.task.spec.name if before.task else before.job.step}"
    if after.job.instance != before.job.instance:
        hours = f" (time limit {after.hours_at_most:.1f} h)" if after.hours_at_most != before.hours_at_most else ""
        yield f"{where}.instance_type={after.job.instance}{hours}"
    if after.job.count != before.job.count:
        yield f"{where}.instance_count={after.job.count}"
    if after.strategy != before.strategy:
        yield f"{where}.strategy={after.strategy}"
    if divided > 1 and before.task is not None:
        yield f"stages.{setting(before.task, divided)}"
    if rank is not None and before.task is not None:
        yield f"stages.{before.task.spec.name}.lora_rank={rank}"
    if after.job.spot != before.job.spot:
        yield f"{where}.spot_wait_s={2 * after.job.seconds_at_most}"

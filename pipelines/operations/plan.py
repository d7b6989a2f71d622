"""What a run needs and costs, known before anything is started: read off the definition that would be deployed.

    srl-rlvr plan post_training --tier gold --env prod

A plan over its tier's budget, or with a step that does not fit its GPUs, is refused, with the nearest one that would do
(nearest.py); so is one whose kind has cost more for its gain than the tier allows (history.py). The budget is compared with
every job at its time limit, Spot at the share that it is expected to save.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from components.shared.selection.prices import Prices, load_prices
from pipelines.compilers.kubeflow import CompiledDag, compile_dag
from pipelines.compilers.sagemaker import compile_sagemaker, on_demand_stem, uses_spot
from pipelines.configuration import load_settings, load_tier
from pipelines.definitions.composer import Task
from pipelines.job_settings import JobSettings, instances
from pipelines.operations.costs import HOUR, JobRequest, at_most_usd, job_requests
from pipelines.operations.history import History, history
from pipelines.operations.memory import GIB, StepMemory, base_of, placement, shape_of, step_memory

POLL_SECONDS = {Tier.BRONZE: 300, Tier.SILVER: 180, Tier.GOLD: 180}
TRANSITIONS_A_POLL, TRANSITIONS_BESIDE = 4, 40
"""Of step_functions/training_run.asl.json, whose loop a test counts; beside the loop at most so many."""
MONTH_HOURS = 730
ADAM_BYTES = 2 * 2
"""Bytes a parameter of a checkpoint's moments, beside two of the parameter itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """One job of the plan."""

    job: JobRequest
    task: Task | None
    """None for a step that only passes on a report."""
    strategy: Strategy
    hours_at_most: float
    hours: float
    """Expected."""
    hours_from: str
    """Where the expectation comes from."""
    usd_at_most: float
    """At the time limit, on demand."""
    usd_planned: float
    """At the time limit, Spot at its expected saving: what the budget is compared with."""
    usd: float
    """Expected."""
    memory: StepMemory | None

    @property
    def tier(self) -> Tier:
        return Tier(self.job.tier)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole execution."""

    dag: str
    pipeline: str
    environment: str
    region: str
    prices: Prices
    steps: tuple[StepPlan, ...]
    budgets_usd: Mapping[Tier, float | None]
    """By every tier that a step works for."""
    spot_saving: float
    on_demand_usd_at_most: float | None
    """What the second definition costs at most, to which the night falls back where Spot has no machines; none without."""
    quotas: Mapping[str, int]
    """Service Quotas' name => instances that one execution needs at once."""
    transitions: int
    storage_gib: float
    """Policies and checkpoints that one execution leaves on S3, before the checkpoints expire."""
    teacher_usd_at_most: float
    """What the teacher's answers may cost, by the stages' own budgets."""
    history: History
    max_usd_per_point: float | None

    @property
    def usd_at_most(self) -> float:
        return sum(step.usd_at_most for step in self.steps)

    @property
    def usd(self) -> float:
        return sum(step.usd for step in self.steps)

    def planned_usd(self, tier: Tier) -> float:
        """What the tier's budget is compared with."""
        return sum(step.usd_planned for step in self.steps if step.tier == tier)

    @property
    def over_budget(self) -> list[Tier]:
        return [t for t, usd in self.budgets_usd.items() if usd is not None and self.planned_usd(t) > usd]

    @property
    def unfit(self) -> list[StepPlan]:
        return [step for step in self.steps if step.memory is not None and not step.memory.fits]

    @property
    def faults(self) -> list[str]:
        """Why it may not be started at all, a line a reason: it does not fit, or costs too much."""
        lines = [
            f"{step.job.step}: {step.memory.model} needs {step.memory.needed_gib:.1f} GiB of each GPU, "
            f"{step.job.instance} has {step.memory.usable_gib:.1f} to count on"
            for step in self.unfit
            if step.memory is not None
        ]
        lines += [
            f"{tier}: {self.planned_usd(tier):,.0f} USD at the time limits, over its budget of "
            f"{self.budgets_usd[tier]:,.0f} USD (configs/tiers/{tier}.yaml, jobs.budget_usd)"
            for tier in self.over_budget
        ]
        return lines

    @property
    def refusals(self) -> list[str]:
        """Why the plan is refused: its faults, and that runs of its kind gained too little of late."""
        lines = self.faults
        cost, most = self.history.usd_per_point, self.max_usd_per_point
        if cost is not None and most is not None and cost > most:
            lines.append(
                f"skip: the last {len(self.history.usd_and_gain)} runs cost {cost:,.0f} USD for a hundredth of score, "
                f"more than {most:,.0f} (jobs.max_usd_per_point)"
            )
        return lines

    @property
    def skip_gate(self) -> str:
        """What the skip gate says, in one line."""
        cost, most = self.history.usd_per_point, self.max_usd_per_point
        if cost is None:
            return (
                f"not skipped: {len(self.history.usd_and_gain)} runs with measured cost and gain, too few to judge by"
            )
        found = f"{cost:,.0f} USD for a hundredth of held-out score, over {len(self.history.usd_and_gain)} runs"
        if most is None:
            return f"not skipped: {found}; jobs.max_usd_per_point sets no limit"
        return f"{'skip' if cost > most else 'not skipped'}: {found}, limit {most:,.0f}"


def make_plan(dag_name: str, environment: str, tier: Tier, runs: Path, assignments: tuple[str, ...] = ()) -> Plan:
    """Plan a run.

    Raises UsageError for whatever could not be compiled for SageMaker (an unknown tier, a region without the instance, a
    role of another account, a value out of range) and for a machine without a price: nothing is created before.
    """
    dag = compile_dag(dag_name, load_settings(environment, tier, assignments))
    pipeline, prices = compile_sagemaker(dag), load_prices()
    jobs = {job.step: job for job in job_requests(pipeline.definition)}
    model_type = str(dag.settings.defaults["model_type"])
    past = history(runs, dag.name, tier, environment, model_type, jobs, prices)
    steps = tuple(step_plan(job, dag, prices, past) for job in jobs.values())
    tiers = [t for t in Tier if any(step.tier == t for step in steps)]
    account = dag.settings.environment.sagemaker
    second = compile_sagemaker(dag, on_demand=True) if uses_spot(dag) else None
    return Plan(
        dag=dag.name if second is None else on_demand_stem(dag).removesuffix("-on-demand"),
        pipeline=pipeline.name,
        environment=environment,
        region=account.region if account else "",
        prices=prices,
        steps=steps,
        budgets_usd={t: load_tier(t).jobs.budget_usd for t in tiers},
        spot_saving=prices.spot_saving.share,
        on_demand_usd_at_most=None if second is None else at_most_usd(second.definition, prices),
        quotas=quotas(jobs.values()),
        transitions=transitions(steps, dag),
        storage_gib=storage_gib(steps),
        teacher_usd_at_most=sum(teacher_budget(task) for task in dag.tasks.values()),
        history=past,
        max_usd_per_point=load_tier(tier).jobs.max_usd_per_point,
    )


def step_plan(job: JobRequest, dag: CompiledDag, prices: Prices, past: History) -> StepPlan:
    """One job with its hours, its price and its memory."""
    task = dag.tasks.get(job.step.replace("-", "_"))
    settings = settings_of(job, task)
    limit = job.seconds_at_most / HOUR
    hours, source = expected_hours(job, settings, past)
    saving = prices.spot_saving.share if job.spot else 0.0
    strategy = settings.strategy if settings is not None else Strategy.SINGLE
    return StepPlan(
        job=job,
        task=task,
        strategy=strategy,
        hours_at_most=limit,
        hours=hours,
        hours_from=source,
        usd_at_most=job.usd(prices, limit),
        usd_planned=job.usd(prices, limit) * (1 - saving),
        usd=job.usd(prices, hours) * (1 - saving),
        memory=memory_of(job, task, strategy),
    )


def teacher_budget(task: Task) -> float:
    """What a stage may spend on a teacher; nothing where it asks none, or one that is free."""
    return float(getattr(getattr(task.config, "budget", None), "usd", None) or 0.0)


def settings_of(job: JobRequest, task: Task | None) -> JobSettings | None:
    return None if task is None else load_tier(Tier(job.tier)).jobs.of(task.spec)


def expected_hours(job: JobRequest, settings: JobSettings | None, past: History) -> tuple[float, str]:
    """How long a job is expected to take, and where that is known from."""
    measured = past.usual_hours(job.step)
    if measured is not None:
        return measured[0], f"measured: median of {measured[1]} runs"
    if settings is not None and settings.expected_runtime_s is not None:
        return settings.expected_runtime_s / HOUR, f"expected: configs/tiers/{job.tier}.yaml"
    return job.seconds_at_most / HOUR, "its time limit: neither measured nor expected"


def memory_of(job: JobRequest, task: Task | None, strategy: Strategy) -> StepMemory | None:
    """What each GPU must hold; none for a step without a model, or on a machine without a GPU."""
    instance = instances()[job.instance]
    if task is None or not instance.gpus:
        return None
    return step_memory(task, Tier(job.tier), placement(instance, job.count, strategy))


def with_job(step: StepPlan, job: JobRequest, prices: Prices, **changes: object) -> StepPlan:
    """The step on other machines, priced anew."""
    saving = prices.spot_saving.share if job.spot else 0.0
    limit = job.seconds_at_most / HOUR
    cost = job.usd(prices, limit)
    facts = {"job": job, "hours_at_most": limit, "usd_at_most": cost, "usd_planned": cost * (1 - saving), **changes}
    return replace(step, **facts)  # type: ignore[arg-type]


def quotas(jobs: object) -> dict[str, int]:
    """The quotas of SageMaker that an execution takes up, by the name that Service Quotas has for them."""
    found: dict[str, int] = {}
    for job in jobs:  # type: ignore[attr-defined]
        kind = "spot training" if job.spot else job.kind
        name = f"{job.instance} for {kind} job usage"
        found[name] = max(found.get(name, 0), job.count)
    return found


def transitions(steps: tuple[StepPlan, ...], dag: CompiledDag) -> int:
    """State transitions of the night's machine for one execution, by its expected hours."""
    hours = sum(step.hours for step in steps)
    polls = hours * HOUR / POLL_SECONDS[dag.settings.tier]
    return round(TRANSITIONS_BESIDE + TRANSITIONS_A_POLL * polls)


def storage_gib(steps: tuple[StepPlan, ...]) -> float:
    """A policy for each step that writes one, and the last checkpoint with its moments for each that trains one."""
    total = 0.0
    for step in steps:
        use = base_of(step.tier)
        if step.task is None or use is None or not step.task.spec.outputs:
            continue
        parameters = shape_of(use.name).parameters / GIB
        policies = sum(kind == "policy" for kind in step.task.spec.outputs.values())
        total += 2 * parameters * policies
        if step.task.spec.job == Job.TRAINING:
            total += (2 + ADAM_BYTES) * parameters
    return total


def service_usd(plan: Plan) -> dict[str, float]:
    """What comes beside the machines, in USD: transitions and volumes of one execution, a month of what it leaves on S3."""
    price = {name: service.usd for name, service in plan.prices.services.items()}
    volumes = sum(s.job.volume_gib * s.job.count * s.hours / MONTH_HOURS for s in plan.steps if has_volume(s))
    return {
        "transitions": plan.transitions * price["state_transition"],
        "volumes": volumes * price["volume"],
        "storage_a_month": plan.storage_gib * price["s3"],
    }


def has_volume(step: StepPlan) -> bool:
    """A type with drives of its own bills no volume."""
    return not instances()[step.job.instance].nvme_gib

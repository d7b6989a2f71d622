"""CloudWatch dashboards over the metric catalogue: five pages of charts, as DashboardBody; Terraform fills in ${...}.

Body's syntax: docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html. Jobs,
endpoints and pipelines have names that nobody knows beforehand, so their charts search for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components.shared.contracts.records import Outcome, Tier
from components.shared.monitoring.catalogue import (
    NAMESPACE,
    OWN,
    PIPELINES,
    TRAINING,
    TRAINING_JOBS,
    Metric,
    listed,
)
from components.shared.monitoring.stability import BLOCK, WARN
from pipelines.compilers.alarms import DAY, HOUR, LATENCY_MS, MINUTE

Json = dict[str, Any]

WIDTH, HEIGHT, COLUMNS = 12, 6, 24
STATE_MACHINE = "arn:${partition}:states:${region}:${account}:stateMachine:${name}-nightly"
PER_GPU = "/ 1"
"""What the variable of the training dashboard replaces: GPU metrics are summed over a host's GPUs."""


def dashboards(
    model_types: Sequence[str], usd_per_hour: Mapping[Tier, float], gpus: Mapping[str, int]
) -> dict[str, Json]:
    """Every dashboard by name; `gpus` are the GPUs of the training machines by type."""
    return {
        "pipeline": page(pipeline_charts()),
        "cost": page(cost_charts(model_types, usd_per_hour)),
        "training": page(training_charts(), variables=[per_gpu(gpus)]),
        "tiers": page(tier_charts()),
        "quality": page(quality_charts(model_types)),
    }


def pipeline_charts() -> list[Json]:
    """From the schedule through the state machine and its pipelines to their steps."""
    machine = {"StateMachineArn": STATE_MACHINE}
    states = ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted")
    schedule = ("InvocationAttemptCount", "TargetErrorCount", "InvocationDroppedCount")
    return [
        chart("Nights that came to their report", [line(OWN["NightlyHeartbeat"])], stat="Sum", period=DAY, view="bar"),
        chart(
            "Runs by how they ended",
            [
                line(OWN["Ended"], label=f"{tier} {outcome}", Tier=tier, Outcome=outcome)
                for tier in Tier
                for outcome in Outcome
            ],
            stat="Sum",
            period=DAY,
            stacked=True,
        ),
        chart(
            "Share of runs that failed",
            [line(OWN["Failed"], label=tier, Tier=tier) for tier in Tier],
            stat="Average",
            period=DAY,
        ),
        chart("Runs started", [line(OWN["Started"], label=tier, Tier=tier) for tier in Tier], stat="Sum", period=DAY),
        chart(
            "Schedule",
            [line(listed("AWS/Scheduler", name), ScheduleGroup="${name}") for name in schedule]
            + [line(listed("AWS/SQS", "ApproximateNumberOfMessagesVisible"), QueueName="${name}-schedules-dead")],
            stat="Sum",
            period=HOUR,
        ),
        chart(
            "State machine", [line(listed("AWS/States", name), **machine) for name in states], stat="Sum", period=DAY
        ),
        chart(
            "Length of a night (ms)",
            [line(listed("AWS/States", "ExecutionTime"), **machine)],
            stat="Maximum",
            period=DAY,
        ),
        chart(
            "Pipeline executions",
            [
                search(listed(PIPELINES, name), stat="Sum", period=HOUR)
                for name in ("ExecutionStarted", "ExecutionSucceeded", "ExecutionFailed", "ExecutionStopped")
            ],
            period=HOUR,
        ),
        chart("Steps that failed", [search(listed(PIPELINES, "StepFailed"), stat="Sum", period=HOUR)], period=HOUR),
        chart(
            "Length of steps (ms)",
            [search(listed(PIPELINES, "StepDuration"), stat="Maximum", period=HOUR)],
            period=HOUR,
        ),
    ]


def cost_charts(model_types: Sequence[str], usd_per_hour: Mapping[Tier, float]) -> list[Json]:
    """What training is estimated to cost, and what answers cost."""
    cost, answer = OWN["EstimatedJobCostUSD"], OWN["AnswerUSD"]
    by_tier = [line(cost, label=tier, Tier=tier) for tier in Tier]
    return [
        chart(
            "Training in a rolling hour (USD, estimated)",
            by_tier,
            stat="Sum",
            period=HOUR,
            marks={f"one {tier} run": usd for tier, usd in usd_per_hour.items()},
        ),
        chart("Training by day (USD, estimated)", by_tier, stat="Sum", period=DAY, stacked=True),
        *(
            chart(
                f"{tier}: training by model type and day (USD, estimated)",
                [line(cost, label=name, Tier=tier, ModelType=name) for name in model_types],
                stat="Sum",
                period=DAY,
                stacked=True,
            )
            for tier in Tier
        ),
        chart(
            "Answers by day (USD)",
            [line(answer, label=tier, Tier=tier) for tier in Tier],
            stat="Sum",
            period=DAY,
            stacked=True,
        ),
    ]


def training_charts() -> list[Json]:
    """Machines and curves of the training jobs."""
    of_host = {
        "GPU utilisation by GPU (%)": ("GPUUtilization", True),
        "GPU memory by GPU (%)": ("GPUMemoryUtilization", True),
        "CPU utilisation, summed over cores (%)": ("CPUUtilization", False),
        "Memory (%)": ("MemoryUtilization", False),
        "Disk (%)": ("DiskUtilization", False),
    }
    machines = [
        chart(
            title,
            [search(listed(TRAINING_JOBS, name), stat="Average", period=MINUTE, then=f" {PER_GPU}" if divided else "")],
            period=MINUTE,
            most=100.0 if divided else None,
        )
        for title, (name, divided) in of_host.items()
    ]
    curves = [
        chart(
            f"{name}: {metric.meaning}",
            [search(metric, stat="Average", period=MINUTE)],
            period=MINUTE,
            marks={"most that is allowed": 0.1} if name == "kl" else {},
        )
        for name, metric in TRAINING.items()
    ]
    return machines + curves


def tier_charts() -> list[Json]:
    """What each tier serves, how fast, and on what."""
    marks = {tier: {"target": most} for tier, (_, most) in LATENCY_MS.items()}
    shown = {Tier.GOLD: "TokenMs", Tier.SILVER: "ResponseStartMs", Tier.BRONZE: "TokenMs"}
    latency = [
        chart(
            f"{tier}: {OWN[name].meaning} (ms)",
            [line(OWN[name], label=stat, stat=stat, Tier=tier) for stat in ("p50", "p95", "p99")],
            period=MINUTE,
            marks=marks.get(tier, {}),
        )
        for tier, name in shown.items()
    ]
    endpoint = "AWS/SageMaker"
    return [
        *latency,
        chart("Share of requests without an answer", [line(OWN["Unanswered"])], stat="Average", period=MINUTE),
        chart(
            "Answers",
            [line(OWN["TokenMs"], label=tier, Tier=tier) for tier in Tier],
            stat="SampleCount",
            period=MINUTE,
        ),
        chart("Traces lost", [line(OWN["TraceLost"])], stat="Sum", period=5 * MINUTE),
        chart(
            "Endpoints: invocations",
            [search(listed(endpoint, "Invocations"), stat="Sum", period=MINUTE)],
            period=MINUTE,
        ),
        chart(
            "Endpoints: errors",
            [
                search(listed(endpoint, name), stat="Sum", period=MINUTE)
                for name in ("Invocation4XXErrors", "Invocation5XXErrors")
            ],
            period=MINUTE,
        ),
        chart(
            "Endpoints: latency of the model (microseconds, p95)",
            [search(listed(endpoint, "ModelLatency"), stat="p95", period=MINUTE)],
            period=MINUTE,
        ),
        chart(
            "Endpoints: GPU utilisation, by GPU (%)",
            [search(listed("/aws/sagemaker/Endpoints", "GPUUtilizationNormalized"), stat="Average", period=MINUTE)],
            period=MINUTE,
        ),
    ]


def quality_charts(model_types: Sequence[str]) -> list[Json]:
    """How good each registered version was, how good what serves is, and how far both have moved."""
    low_and_mean = {"PolicyScore": "mean", "PolicyScoreLow": "lower bound"}
    registered = [
        chart(
            f"{model_type}: held-out score of registered versions",
            [
                line(OWN[name], label=f"{tier} {what}", Tier=tier, ModelType=model_type)
                for tier in Tier
                for name, what in low_and_mean.items()
            ],
            stat="Maximum",
            period=DAY,
        )
        for model_type in model_types
    ]
    served = [
        chart(
            f"{model_type}: outcome reward of served answers",
            [line(OWN["ServedScore"], label=tier, Tier=tier, ModelType=model_type) for tier in Tier],
            stat="Average",
            period=HOUR,
        )
        for model_type in model_types
    ]
    moved = [
        chart(
            f"{model_type}: {title} (PSI)",
            [line(OWN[name], label=tier, Tier=tier, ModelType=model_type) for tier in Tier],
            stat="Maximum",
            period=DAY,
            marks={"warn": WARN, "alarm": BLOCK},
        )
        for model_type in model_types
        for name, title in {"InputDriftPSI": "drift of what is asked", "RewardDriftPSI": "drift of scores"}.items()
    ]
    return registered + served + moved


def page(charts: Sequence[Json], variables: Sequence[Json] = ()) -> Json:
    """A dashboard: its charts in two columns."""
    per_row = COLUMNS // WIDTH
    placed = [
        {
            "type": "metric",
            "x": WIDTH * (i % per_row),
            "y": HEIGHT * (i // per_row),
            "width": WIDTH,
            "height": HEIGHT,
            "properties": properties,
        }
        for i, properties in enumerate(charts)
    ]
    return {"widgets": placed, **({"variables": list(variables)} if variables else {})}


def chart(
    title: str,
    lines: Sequence[list[Any]],
    *,
    period: int,
    stat: str = "Average",
    view: str = "timeSeries",
    stacked: bool = False,
    marks: Mapping[str, float] | None = None,
    most: float | None = None,
) -> Json:
    """The properties of a metric widget. `marks` are horizontal lines by label; `most` is the top of the axis."""
    properties: Json = {
        "title": title,
        "region": "${region}",
        "view": view,
        "stacked": stacked,
        "stat": stat,
        "period": period,
        "metrics": list(lines),
        "yAxis": {"left": {"min": 0, **({"max": most} if most is not None else {})}},
    }
    if marks:
        properties["annotations"] = {"horizontal": [{"label": name, "value": value} for name, value in marks.items()]}
    return properties


def line(metric: Metric, *, label: str | None = None, stat: str | None = None, **dimensions: str) -> list[Any]:
    """One metric of a chart. Raises ValueError where it is not published under these dimensions."""
    if tuple(dimensions) not in metric.dimensions:
        raise ValueError(f"{metric.name} has no dimensions {tuple(dimensions)}, but {metric.dimensions}")
    options = {key: str(value) for key, value in (("label", label), ("stat", stat)) if value is not None}
    named = [str(word) for pair in dimensions.items() for word in pair]
    return [metric.namespace, metric.name, *named, *([options] if options else [])]


def search(metric: Metric, *, stat: str, period: int, then: str = "") -> list[Any]:
    """Every series of a metric, whatever its dimensions' values; `then` is arithmetic on each."""
    assert metric.namespace != NAMESPACE, "our own series are known by name"
    (dimensions,) = metric.dimensions
    schema = ",".join(f'"{part}"' for part in (metric.namespace, *dimensions))
    expression = f"SEARCH('{{{schema}}} MetricName=\"{metric.name}\"', '{stat}', {period}){then}"
    return [{"expression": expression, "label": metric.name, "period": period}]


def per_gpu(gpus: Mapping[str, int]) -> Json:
    """The list from which a person says on which machine the jobs run; the largest is shown first.

    CloudWatch has no series of a job's number of GPUs, and a job's name says neither tier nor machine.
    """
    values = [
        {"value": f"/ {count}", "label": f"{instance}: {count} GPUs"}
        for instance, count in sorted(gpus.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {
        "type": "pattern",
        "pattern": PER_GPU,
        "inputType": "select",
        "id": "gpus",
        "label": "Machine",
        "defaultValue": values[0]["value"],
        "visible": True,
        "values": values,
    }

"""Every metric that a dashboard shows or an alarm watches: what this project's own code emits, and what AWS lists.

Nothing else may be charted or alarmed on: dashboards and alarms are generated from here (pipelines/compilers/alarms.py,
dashboards.py), emitters take names and units from here, and tests run each emitter and compare what it sent.
"""

from dataclasses import dataclass
from enum import StrEnum

NAMESPACE = "${namespace}"
"""Stands for the environment's own namespace, which Terraform fills in."""
TRAINING_JOBS = "/aws/sagemaker/TrainingJobs"
PIPELINES = "AWS/Sagemaker/ModelBuildingPipeline"


class Emitter(StrEnum):
    """Who publishes a metric, and how."""

    STATE_MACHINE = "state machine"
    """step_functions/, by cloudwatch:putMetricData: an isolated trainer can publish nothing, so the machine does. By hand,
    `srl-rlvr drift --publish` sends the two of drift."""
    ROUTER = "router"
    """components/shared/serving/, in the embedded metric format, on the decision line of each request."""
    TRAINER = "trainer"
    """A training job's lines on standard output, which SageMaker searches by the job's MetricDefinitions."""
    AWS = "AWS"
    """The service itself; `source` is where AWS lists it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric."""

    name: str
    unit: str
    """As PutMetricData knows units."""
    dimensions: tuple[tuple[str, ...], ...]
    """Names of the dimensions that it is published under; more than one set where it is published more than once."""
    emitter: Emitter
    meaning: str
    namespace: str = NAMESPACE
    source: str | None = None
    """Page of AWS's documentation that lists it."""


TIER, TIER_AND_TYPE = ("Tier",), ("Tier", "ModelType")
TRAINING_CURVES = {
    "loss": "what is minimised",
    "kl": "mean KL to the reference per generated token, nats",
    "kl_probe": "the same on the probe prompts",
    "beta": "weight of the KL penalty",
    "reward": "mean outcome reward of the rollouts",
    "reward_std": "its spread",
    "entropy": "mean entropy of the policy's next token, nats",
    "grad_norm": "norm of the gradient before clipping",
    "forward_kl": "distillation: KL of the student from its teacher on the teacher's answers, nats",
    "onpolicy_divergence": "distillation: divergence on the student's own answers, nats",
    "accepted": "1 where a step was taken, 0 where the KL guard refused it",
}
"""Values of a training job's lines that become curves, with what they are."""


def _own(emitter: Emitter, name: str, unit: str, meaning: str, *dimensions: tuple[str, ...]) -> Metric:
    return Metric(name=name, unit=unit, dimensions=dimensions or ((),), emitter=emitter, meaning=meaning)


_MACHINE, _ROUTER = Emitter.STATE_MACHINE, Emitter.ROUTER
OWN = {
    metric.name: metric
    for metric in (
        _own(
            _MACHINE,
            "EstimatedJobCostUSD",
            "None",
            "cost since the last poll, as if the tier's machines ran all the while at their on-demand price",
            TIER,
            TIER_AND_TYPE,
        ),
        _own(_MACHINE, "Started", "Count", "pipeline executions started", TIER),
        _own(_MACHINE, "Failed", "Count", "1 for a run that ended failed, 0 for any other end", TIER),
        _own(_MACHINE, "Ended", "Count", "runs that ended, by how", ("Tier", "Outcome")),
        _own(_MACHINE, "PolicyScore", "None", "held-out score of a registered version, greedy", TIER_AND_TYPE),
        _own(_MACHINE, "PolicyScoreLow", "None", "lower bound of that score", TIER_AND_TYPE),
        _own(_MACHINE, "NightlyHeartbeat", "Count", "nights that came to their report"),
        _own(_ROUTER, "Unanswered", "Count", "1 for a request that no tier answered whole, else 0", (), ("ModelType",)),
        _own(_ROUTER, "TokenMs", "Milliseconds", "time to the whole answer by its tokens", TIER),
        _own(
            _ROUTER,
            "ResponseStartMs",
            "Milliseconds",
            "time until an answer, or a stream's first piece, is there",
            TIER,
        ),
        _own(_ROUTER, "AnswerUSD", "None", "cost of an answer", TIER, TIER_AND_TYPE),
        _own(_ROUTER, "ServedScore", "None", "outcome reward of an answer whose scenario is known", TIER_AND_TYPE),
        _own(_ROUTER, "TraceLost", "Count", "1 for an answer whose trace could not be written, else 0"),
        _own(
            _MACHINE,
            "InputDriftPSI",
            "None",
            "largest population stability index of what is asked, against the version's held-out scenarios",
            TIER,
            TIER_AND_TYPE,
        ),
        _own(_MACHINE, "RewardDriftPSI", "None", "the same of the answers' checked scores", TIER, TIER_AND_TYPE),
    )
}
"""What this project emits into its own namespace, by name."""

_SAGEMAKER = "https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html"
_METRIC_DEFINITIONS = "https://docs.aws.amazon.com/sagemaker/latest/dg/define-train-metrics.html"
_STATES = "https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html"
_SCHEDULER = "https://docs.aws.amazon.com/scheduler/latest/UserGuide/monitoring-cloudwatch.html"
_QUEUES = (
    "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html"
)


def _listed(namespace: str, source: str, dimensions: tuple[str, ...], **units: str) -> list[Metric]:
    return [
        Metric(
            name=name,
            unit=unit,
            dimensions=(dimensions,),
            emitter=Emitter.AWS,
            meaning="listed by AWS",
            namespace=namespace,
            source=source,
        )
        for name, unit in units.items()
    ]


LISTED = {
    (metric.namespace, metric.name): metric
    for metric in (
        # Of a job's host; the two of GPUs are summed over its GPUs: 0-800 % on a p5.
        *_listed(
            TRAINING_JOBS,
            _SAGEMAKER,
            ("Host",),
            CPUUtilization="Percent",
            MemoryUtilization="Percent",
            GPUUtilization="Percent",
            GPUMemoryUtilization="Percent",
            DiskUtilization="Percent",
        ),
        *_listed(
            "AWS/SageMaker",
            _SAGEMAKER,
            ("EndpointName", "VariantName"),
            Invocations="None",
            Invocation4XXErrors="None",
            Invocation5XXErrors="None",
            ModelLatency="Microseconds",
            OverheadLatency="Microseconds",
        ),
        *_listed(
            "/aws/sagemaker/Endpoints",
            _SAGEMAKER,
            ("EndpointName", "VariantName"),
            GPUUtilization="Percent",
            GPUMemoryUtilization="Percent",
            GPUUtilizationNormalized="Percent",
        ),
        *_listed(
            PIPELINES,
            _SAGEMAKER,
            ("PipelineName",),
            ExecutionStarted="Count",
            ExecutionSucceeded="Count",
            ExecutionFailed="Count",
            ExecutionStopped="Count",
            ExecutionDuration="Milliseconds",
        ),
        *_listed(
            PIPELINES,
            _SAGEMAKER,
            ("PipelineName", "StepName"),
            StepFailed="Count",
            StepDuration="Milliseconds",
        ),
        *_listed(
            "AWS/States",
            _STATES,
            ("StateMachineArn",),
            ExecutionsStarted="Count",
            ExecutionsSucceeded="Count",
            ExecutionsFailed="Count",
            ExecutionsTimedOut="Count",
            ExecutionsAborted="Count",
            ExecutionTime="Milliseconds",
        ),
        *_listed(
            "AWS/Scheduler",
            _SCHEDULER,
            ("ScheduleGroup",),
            InvocationAttemptCount="Count",
            TargetErrorCount="Count",
            InvocationDroppedCount="Count",
            InvocationsSentToDeadLetterCount="Count",
        ),
        *_listed("AWS/SQS", _QUEUES, ("QueueName",), ApproximateNumberOfMessagesVisible="Count"),
    )
}
"""What AWS emits by itself, by namespace and name."""

TRAINING = {
    name: Metric(
        name=name,
        unit="None",
        dimensions=(("TrainingJobName",),),
        emitter=Emitter.TRAINER,
        meaning=meaning,
        namespace=TRAINING_JOBS,
        source=_METRIC_DEFINITIONS,
    )
    for name, meaning in TRAINING_CURVES.items()
}
"""Curves of training jobs, by name."""

METRICS = {(metric.namespace, metric.name): metric for metric in (*OWN.values(), *TRAINING.values())} | LISTED
"""The whole catalogue, by namespace and name."""


def namespace_of(environment: str) -> str:
    """The namespace of an environment's own metrics, as Terraform names it."""
    return f"SrlRlvr/srl-rlvr-{environment}"


def listed(namespace: str, name: str) -> Metric:
    """A metric of AWS's. Raises KeyError for one that AWS does not list."""
    return LISTED[namespace, name]

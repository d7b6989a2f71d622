"""What a stage's job asks of the machines, and what an AWS account and a Kubernetes cluster give.

A tier (configs/tiers/TIER.yaml, key `jobs`) says which instances its stages get and how they are to be run; an environment
(configs/environments/ENV.yaml, keys `sagemaker` and `kubernetes`) says whose they are. Both are fixed when a DAG is
compiled, which is why there is one definition a DAG and tier.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.stage import Job, StageSpec
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping

DAY, HOUR = 86_400, 3_600


RoleArn = Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$")]
Subnet = Annotated[str, Field(pattern=r"^subnet-[0-9a-f]+$")]
SecurityGroup = Annotated[str, Field(pattern=r"^sg-[0-9a-f]+$")]


class Settings(BaseModel):
    """Base of what is read here: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Retry(Settings):
    """How often an engine starts a task again that failed through no fault of its own."""

    attempts: int = Field(default=3, ge=1, le=20)
    interval_s: int = Field(default=60, ge=1)
    """Pause before the first retry."""
    backoff: float = Field(default=2.0, ge=1)
    """Factor by which each pause is longer than the one before."""
    capacity_patience_min: int = Field(default=360, ge=1, le=14_400)
    """Minutes to keep asking for an instance that AWS has none of, or that a quota holds back."""


class JobSettings(Settings):
    """One stage's job on one tier."""

    instance_type: str
    """A type of configs/instances.yaml."""
    instance_count: int = Field(default=1, ge=1, le=100)
    volume_gib: int = Field(default=50, ge=1, le=16_384)
    """Size of the volume; types with NVMe drives use those instead."""
    max_runtime_s: int = Field(default=HOUR, ge=60, le=28 * DAY)
    expected_runtime_s: int | None = Field(default=None, ge=1)
    """How long it is thought to take, until runs have measured it; none where nobody can tell."""
    job: Job | None = None
    """Kind of job, where the tier differs from the stage's spec: the largest types train but do not process."""
    spot_wait_s: int | None = Field(default=None, ge=60)
    """Managed Spot: the longest that the job may take, waiting for capacity included; none for on-demand."""
    checkpoint_interval_s: int | None = Field(default=None, ge=60)
    """How often a training job saves its state; none for a job without checkpoints."""
    strategy: Strategy = Strategy.SINGLE
    isolated: bool = False
    """No network at all, not even AWS's own services."""
    encrypted_traffic: bool = False
    """Encrypt what the instances of one job send each other."""


class TierJobs(Settings):
    """configs/tiers/TIER.yaml, `jobs`."""

    processing: JobSettings
    """What every processing stage gets."""
    training: JobSettings
    """What every training stage gets."""
    stages: dict[str, dict[str, JsonValue]] = {}
    """What one stage asks otherwise, over its kind's settings."""
    retry: Retry = Retry()
    budget_usd: float | None = Field(default=None, gt=0)
    """What one execution may cost, every job at its `max_runtime_s`; none where nothing is too dear, and no Spot job then
    falls back to machines on demand."""
    max_usd_per_point: float | None = Field(default=None, gt=0)
    """What a hundredth of held-out score may cost by the runs so far; a run that promises less is not worth starting."""
    cache_days: int = Field(default=30, ge=1)
    """How old a finished step may be to stand in for one with the same configuration and inputs."""

    def of(self, spec: StageSpec) -> JobSettings:
        """The settings of a stage's job, its kind filled in. Raises UsageError for a value out of range or of no use."""
        own = self.stages.get(spec.name, {})
        kind = Job(str(own.get("job", spec.job)))
        base = self.training if kind == Job.TRAINING else self.processing
        values = {**base.model_dump(exclude_unset=True), **own, "job": kind}
        return checked(parse_config(JobSettings, values, f"jobs.{spec.name}"), spec.name)


def checked(job: JobSettings, stage: str) -> JobSettings:
    """Settings that belong together. Raises UsageError where Spot could lose a night's work, or never start."""
    if job.job == Job.PROCESSING:
        for name in ("spot_wait_s", "checkpoint_interval_s"):
            if getattr(job, name) is not None:
                raise UsageError(f"jobs.{stage}.{name}: a processing job has none: set job: training, or leave it out")
    if job.expected_runtime_s is not None and job.expected_runtime_s > job.max_runtime_s:
        raise UsageError(
            f"jobs.{stage}.expected_runtime_s = {job.expected_runtime_s} is above max_runtime_s = {job.max_runtime_s}: "
            "it would be stopped before it is done: raise max_runtime_s"
        )
    if job.spot_wait_s is not None:
        if job.checkpoint_interval_s is None:
            raise UsageError(
                f"jobs.{stage}: Spot (spot_wait_s = {job.spot_wait_s}) without checkpoint_interval_s: a reclaimed "
                "instance would lose all work: set checkpoint_interval_s, for example 1800"
            )
        if job.spot_wait_s <= job.max_runtime_s:
            raise UsageError(
                f"jobs.{stage}.spot_wait_s = {job.spot_wait_s} is not above max_runtime_s = {job.max_runtime_s}: "
                "raise it by the time that the job may wait for capacity"
            )
    return job


class BaseModelUse(Settings):
    """configs/tiers/TIER.yaml, `base_model`: what the tier trains, by what its memory follows from."""

    name: str
    """A name of configs/base_models.yaml."""
    prompt_tokens: int = Field(ge=1)
    """Tokens of the longest prompt."""
    completion_tokens: int = Field(ge=1)
    """Tokens of the longest answer."""


class SageMaker(Settings):
    """configs/environments/ENV.yaml, `sagemaker`: the account in which pipelines run."""

    account_id: str = Field(pattern=r"^\d{12}$")
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    role_arn: RoleArn
    """Role of the pipeline and of every job that has none of its own."""
    roles: dict[str, RoleArn] = {}
    """Roles of single stages."""
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field(default="srl-rlvr", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")
    """Where runs and checkpoints lie in the bucket."""
    pipeline_prefix: str = Field(default="srl-rlvr", pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$")
    """What every pipeline's name begins with."""
    kms_key: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9:/_-]+$")
    """Key that encrypts outputs and volumes; none for AWS's own."""
    subnets: tuple[Subnet, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    cost_centre: str = Field(default="game-ai", pattern=r"^[\w .:/=+@-]+$")
    max_parallel_steps: int = Field(default=4, ge=1)

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Nights(Settings):
    """configs/environments/ENV.yaml, `nights`: what the nightly state machine trains there. Terraform reads it too."""

    scheduled: bool
    """Whether the schedules fire; off, nights are started by hand."""
    model_types: tuple[str, ...] = Field(min_length=1)
    """Each has a model package group a tier, and all its runs every night."""
    monthly_budget_usd: float = Field(gt=0)
    """Cost of a month at which the account's budget alerts; a schedule that may cost more is refused."""


class Kubernetes(Settings):
    """configs/environments/ENV.yaml, `kubernetes`: the cluster on which Kubeflow runs."""

    gpu_resource: str = "nvidia.com/gpu"
    """Resource name of a GPU."""
    gpu_node_selector: dict[str, str] = {}
    """Labels of the nodes that hold the GPUs."""
    gpu_tolerations: tuple[dict[str, str], ...] = ()
    """Taints that tasks with GPUs put up with: key, operator, value, effect."""
    secrets: dict[str, dict[str, str]] = {}
    """By stage and environment variable: `SECRET/KEY` of the cluster's secrets."""


class Instance(Settings):
    """One type of configs/instances.yaml."""

    vcpus: int
    memory_gib: float
    gpus: int = 0
    gpu: str | None = None
    gpu_memory_gib: float = 0
    """Memory of one GPU."""
    gpu_tflops: float = 0
    """Peak of one GPU in bfloat16, by which the plan holds types against each other."""
    nvme_gib: float = 0
    """Local drives, which replace the volume and cannot be encrypted with a key of one's own."""
    jobs: tuple[Job, ...] = (Job.PROCESSING, Job.TRAINING)
    """Kinds of job that may use it."""
    regions: tuple[str, ...]


def instances() -> Mapping[str, Instance]:
    """Every instance type that a tier may name."""
    return _instances(configs_root() / "instances.yaml")


@functools.cache
def _instances(path: Path) -> Mapping[str, Instance]:
    found = read_mapping(path).get("instances", {})
    return {name: parse_config(Instance, values, f"{path}: {name}") for name, values in found.items()}


def instance_of(job: JobSettings, stage: str, region: str | None = None) -> Instance:
    """The instance type of a job. Raises UsageError where the table has none such, of that kind or in that region."""
    table = instances()
    if job.instance_type not in table:
        raise unknown(f"instance type of {stage}", job.instance_type, table)
    found = table[job.instance_type]
    if job.job not in found.jobs:
        raise UsageError(
            f"{stage}: {job.instance_type} runs no {job.job} jobs: choose another type, or set jobs.stages.{stage}.job"
        )
    if region is not None and region not in found.regions:
        raise UsageError(
            f"{stage}: {job.instance_type} is not offered in {region} (configs/instances.yaml: "
            f"{', '.join(found.regions)}): choose another type or region"
        )
    return found

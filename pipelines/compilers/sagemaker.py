"""A DAG as a SageMaker pipeline: KFP's intermediate representation in, the pipeline definition's JSON out.

Each task becomes a Training or a Processing step by its stage's spec and its tier's settings, each `If` a Condition step,
each importer the S3 URI of a pipeline parameter. A condition can only read a processing job's output; where its scalar
comes from a training job, one small Processing step passes that job's report on. No SDK is involved:
docs/decisions/sagemaker-without-the-sdk.md says why, and what it costs.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Job
from pipelines.compilers.ir import Gate, Node, Output, Parameter, Retries, Step, Workflow, gates, read_workflow, steps
from pipelines.compilers.kubeflow import CompiledDag, from_data
from pipelines.compilers.sagemaker_checks import check_account, check_definition
from pipelines.compilers.sagemaker_steps import REPORT, Json, Placed, Requests, parameter
from pipelines.configuration import load_tier
from pipelines.definitions.composer import tier_of
from pipelines.job_settings import SageMaker, TierJobs, instance_of

VERSION = "2020-12-01"
EXPERIMENT = "srl-rlvr"
"""MLflow's experiment of every execution."""
TYPES = {"STRING": "String", "NUMBER_INTEGER": "Integer", "NUMBER_DOUBLE": "Float", "BOOLEAN": "Boolean"}
CASTS = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool}
OPERATORS = {
    "==": "Equals",
    ">": "GreaterThan",
    ">=": "GreaterThanOrEqualTo",
    "<": "LessThan",
    "<=": "LessThanOrEqualTo",
}
ABBREVIATIONS = {"srl": "SRL", "rlvr": "RLVR"}


@dataclass(frozen=True, kw_only=True)
class SageMakerPipeline:
    """A compiled pipeline: what CreatePipeline and UpdatePipeline take."""

    name: str
    description: str
    role_arn: str
    definition: Mapping[str, Any]
    tags: Sequence[Mapping[str, str]]
    max_parallel_steps: int

    def definition_text(self) -> str:
        """The definition as people and diffs read it; equal DAGs give equal bytes."""
        return json.dumps(self.definition, indent=1) + "\n"

    def request(self) -> dict[str, Any]:
        """CreatePipeline's request, less the definition, which lies beside it."""
        return {
            "PipelineName": self.name,
            "PipelineDisplayName": self.name,
            "PipelineDescription": self.description,
            "RoleArn": self.role_arn,
            "ParallelismConfiguration": {"MaxParallelExecutionSteps": self.max_parallel_steps},
            "Tags": list(self.tags),
        }


def compile_sagemaker(dag: CompiledDag, on_demand: bool = False) -> SageMakerPipeline:
    """Compile a DAG for SageMaker.

    `on_demand` compiles its second definition, for when Spot has no machines: the same jobs without Spot, with the same
    checkpoints, on the data that the first one has made.

    Raises UsageError for what SageMaker has not, a stage without an image in the account's registry, an instance type that
    the region lacks, Spot without a checkpoint, a name or value over SageMaker's limits: nothing is written then.
    """
    account = check_account(dag.settings)
    stem = on_demand_stem(dag) if on_demand else dag.file_stem
    dag = from_data(dag) if on_demand else dag
    workflow = read_workflow(dag)
    name = "-".join([account.pipeline_prefix, stem.replace("_", "-")])
    definition: Json = {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [described(key, value) for key, value in asked_first(workflow.parameters)],
        "PipelineExperimentConfig": {
            "ExperimentName": {"Get": "Execution.PipelineName"},
            "TrialName": {"Get": "Execution.PipelineExecutionId"},
        },
        "Steps": list(_Assembly(dag, workflow, account, name, on_demand).body(workflow.body)),
    }
    tracking = dag.settings.environment.tracking_uri
    if tracking is not None and tracking.startswith("arn:"):
        definition["MlflowConfig"] = {"MlflowResourceArn": tracking, "MlflowExperimentName": EXPERIMENT}
    check_definition(name, definition)
    tags = {"cost-centre": account.cost_centre, "dag": dag.name, "project": "srl-rlvr"}
    if dag.name != "nightly":
        tags["tier"] = dag.settings.tier
    return SageMakerPipeline(
        name=name,
        description=workflow.description,
        role_arn=account.role_arn,
        definition=definition,
        tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        max_parallel_steps=account.max_parallel_steps,
    )


def on_demand_stem(dag: CompiledDag) -> str:
    """What the files of a DAG's second definition are called. Raises UsageError where its first does not use Spot."""
    if not uses_spot(dag):
        raise UsageError(f"{dag.file_stem} uses no Spot: it is on demand already")
    return f"{dag.file_stem}-on-demand"


def uses_spot(dag: CompiledDag) -> bool:
    """Whether a job of the DAG runs on Spot. Never of `nightly`: the night starts the DAGs of one tier."""
    if dag.name == "nightly":
        return False
    jobs = load_tier(dag.settings.tier).jobs
    return any(jobs.of(task.spec).spot_wait_s is not None for task in dag.tasks.values())


def asked_first(parameters: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The parameters as Studio's form is to show them: those that must be given, then those that may be."""
    return sorted(parameters.items(), key=lambda item: ("defaultValue" in item[1], item[0]))


def described(name: str, value: Mapping[str, Any]) -> Json:
    """A pipeline parameter, typed and described. KFP writes whole numbers with a point; SageMaker refuses them."""
    kind = value["parameterType"]
    if kind not in TYPES:
        raise UsageError(f"parameter {name}: {kind} has no counterpart: use a string, a number or a boolean")
    found: Json = {"Name": name, "Type": TYPES[kind]}
    if "defaultValue" in value:
        found["DefaultValue"] = CASTS[kind](value["defaultValue"])
    if value.get("description"):
        found["Description"] = value["description"]
    return found


class _Assembly:
    """The steps of one pipeline."""

    def __init__(self, dag: CompiledDag, workflow: Workflow, account: SageMaker, name: str, on_demand: bool):
        self._dag = dag
        self._on_demand = on_demand
        self._account = account
        self._read = {gate.left.step for gate in gates(workflow.body) if isinstance(gate.left, Output)}
        self._jobs = {tier: load_tier(tier).jobs for tier in Tier}
        self._placed = {step.name: self._place(step) for step in steps(workflow.body)}
        self._requests = Requests(
            account=account,
            run_root=f"{account.root}/runs/{name.removeprefix(f'{account.pipeline_prefix}-')}",
            kinds={key: placed.kind for key, placed in self._placed.items()},
            parameters=frozenset(workflow.parameters),
        )

    def body(self, nodes: Sequence[Node]) -> Iterator[Json]:
        """The steps of a pipeline or of a branch, in the order in which data flows."""
        for node in nodes:
            if isinstance(node, Gate):
                yield self._gate(node)
                continue
            placed = self._placed[node.name]
            yield self._step(placed)
            if node.name in self._read and placed.kind == Job.TRAINING:
                yield self._reader(placed)

    def _step(self, placed: Placed) -> Json:
        training = placed.kind == Job.TRAINING
        request = self._requests.training(placed) if training else self._requests.processing(placed)
        step = self._frame(placed, "Training" if training else "Processing", purpose(placed), request)
        waits = [name for name in placed.step.after if name not in producers(placed.step)]
        if waits:
            step["DependsOn"] = waits
        if not training and placed.name in self._read:
            step["PropertyFiles"] = [property_file()]
        return step

    def _reader(self, placed: Placed) -> Json:
        """The step that passes on what a training step reported."""
        jobs = self._jobs[Tier(placed.tier)]
        stage = replace(
            placed.step,
            name=f"{REPORT}-{placed.name}",
            image=self._dag.settings.environment.image("data"),
            environment={},
        )
        job = jobs.processing.model_copy(update={"job": Job.PROCESSING})
        reader = replace(placed, step=stage, job=job, instance=instance_of(job, stage.name, self._account.region))
        request = self._requests.report(reader, placed.name)
        text = f"Passes on the report of {placed.name}, which the gate reads: a training job's output it could not."
        return {**self._frame(reader, "Processing", text, request), "PropertyFiles": [property_file()]}

    def _frame(self, placed: Placed, kind: str, description: str, request: Json) -> Json:
        """What every step has around its request."""
        step: Json = {
            "Name": placed.name,
            "Type": kind,
            "DisplayName": display_name(placed.name),
            "Description": description,
            "Arguments": request,
        }
        jobs = self._jobs[Tier(placed.tier)]
        if placed.step.cached:
            step["CacheConfig"] = {"Enabled": True, "ExpireAfter": f"P{jobs.cache_days}D"}
        if placed.step.retries is not None:
            step["RetryPolicies"] = retry_policies(placed.step.retries, jobs)
        return step

    def _gate(self, gate: Gate) -> Json:
        name = f"gate-{'-'.join(gate.name.lower().split())}"
        if gate.operator not in OPERATORS:
            raise UsageError(f"{name}: {gate.operator} has no counterpart: turn the comparison round")
        condition = {
            "Type": OPERATORS[gate.operator],
            "LeftValue": self._scalar(gate.left),
            "RightValue": gate.right,
        }
        what = gate.left.name if isinstance(gate.left, Parameter) else f"{gate.left.key} of {gate.left.step}"
        return {
            "Name": name,
            "Type": "Condition",
            "DisplayName": display_name(name),
            "Description": f"Goes on where {what} {gate.operator} {gate.right:g}; otherwise the champion is kept.",
            "Arguments": {"Conditions": [condition], "IfSteps": list(self.body(gate.body)), "ElseSteps": []},
        }

    def _scalar(self, source: Parameter | Output) -> Json:
        """What a condition compares: a parameter, or a number in a stage's report."""
        if isinstance(source, Parameter):
            return parameter(source.name)
        processing = self._placed[source.step].kind == Job.PROCESSING
        step = source.step if processing else f"{REPORT}-{source.step}"
        file = {"Get": f"Steps.{step}.PropertyFiles.{REPORT}"}
        return {"Std:JsonGet": {"PropertyFile": file, "Path": f"scalars.{source.key}"}}

    def _place(self, step: Step) -> Placed:
        task = self._dag.tasks[step.task]
        tier = tier_of(task.config, self._dag.settings.tier)
        job = self._jobs[tier].of(task.spec)
        if self._on_demand:
            job = job.model_copy(update={"spot_wait_s": None})
        instance = instance_of(job, step.name, self._account.region)
        return Placed(step=step, spec=task.spec, tier=tier, job=job, instance=instance)


def producers(step: Step) -> set[str]:
    """Steps whose artifacts the step reads: SageMaker waits for them unasked."""
    return {source.step for source in step.artifacts.values() if isinstance(source, Output)}


def property_file() -> Json:
    return {"PropertyFileName": REPORT, "OutputName": REPORT, "FilePath": "report.json"}


def retry_policies(retries: Retries, jobs: TierJobs) -> list[Json]:
    """KFP retries whatever fails; SageMaker only what is no fault of the stage, each kind at its own pace.

    A fault of AWS passes in minutes, a lack of machines in hours.
    """
    backoff = {"IntervalSeconds": retries.interval_s, "BackoffRate": retries.backoff}
    patience = {"ExpireAfterMin": jobs.retry.capacity_patience_min}
    return [
        {"ExceptionType": ["Step.SERVICE_FAULT", "Step.THROTTLING"], **backoff, "MaxAttempts": retries.count},
        {"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], **backoff, "MaxAttempts": retries.count},
        {"ExceptionType": ["SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"], **backoff, **patience},
    ]


def display_name(name: str) -> str:
    """A step's name as Studio's graph shows it: `rlvr` is RLVR, `distill-gold` is Distill-Gold. It takes no spaces."""
    words = name.split("-")
    return "-".join(ABBREVIATIONS.get(word, word.capitalize()) for word in words)


def purpose(placed: Placed) -> str:
    """The first line of what the stage's spec says of itself."""
    return (sys.modules[placed.spec.config.__module__].__doc__ or placed.spec.name).splitlines()[0]

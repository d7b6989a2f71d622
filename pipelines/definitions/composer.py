"""Stages as KFP tasks: each component is made from its stage's spec, so that no signature is written twice.

A component takes the spec's input artifacts, the fields that whoever starts an execution may set as typed parameters,
and everything else as one constant, `config`. It is built as a component specification rather than from a function's
signature, since a stage may read and write an artifact of one name (srl: policy in, policy out).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl import structures
from kfp.dsl.container_component_class import ContainerComponent
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineArtifactChannel, PipelineParameterChannel
from kfp.dsl.pipeline_task import PipelineTask
from kfp.dsl.types.type_utils import create_bundled_artifact_type

from components.catalogue import STAGES, spec_of
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind, StageConfig, StageSpec
from components.shared.storage.artifacts import canonical_json
from pipelines.configuration import Settings, load_tier
from pipelines.definitions.placement import placed, told, tried_again
from pipelines.job_settings import instance_of

KINDS = {
    ArtifactKind.TRAJECTORIES: dsl.Dataset,
    ArtifactKind.DATASET: dsl.Dataset,
    ArtifactKind.POLICY: dsl.Model,
    ArtifactKind.REPORT: dsl.Metrics,
}
"""What KFP calls each kind of artifact."""
TYPES: Mapping[Any, str] = {str: "String", int: "Integer", float: "Float", bool: "Boolean"}
"""What KFP calls each type of parameter."""
ENTRY_POINT = ("python", "-m", "components")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task of a DAG as configured, before the pipeline's parameters fill it."""

    name: str
    spec: StageSpec
    config: StageConfig


class Composer:
    """Makes the tasks of one DAG and remembers them, in the order in which they were made."""

    def __init__(
        self,
        settings: Settings,
        spec_of: Callable[[str], StageSpec] = spec_of,
        entry_point: tuple[str, ...] = ENTRY_POINT,
    ):
        self.settings = settings
        self.tasks: dict[str, Task] = {}
        self._spec_of = spec_of
        self._entry_point = entry_point

    def task(self, name: str, stage: str, **arguments: Any) -> PipelineTask:
        """A stage as the task `name`, which is unique in its DAG.

        Arguments are the spec's inputs (artifacts), the spec's parameters (the pipeline's parameters), and any other
        configuration key, as a constant that no layer may change. Raises UsageError for a configuration that the stage
        does not take.
        """
        spec = self._spec_of(stage)
        artifacts = {key: arguments.pop(key) for key in spec.inputs}
        parameters = {key: arguments.pop(key) for key in spec.parameters}
        values = {key: self.settings.defaults[channel.name] for key, channel in parameters.items()}
        config = self.settings.config(name, spec, arguments, values)
        self.tasks[name] = Task(name=name, spec=spec, config=config)
        constant = canonical_json(config.model_dump(mode="json", exclude=set(parameters)))
        image = self.settings.environment.image(spec.image)
        task = component(name, spec, image, self._entry_point)(**artifacts, **parameters, config=constant)
        self._place(name, task, spec, config)
        if not spec.outputs:
            # Its effect lies outside its outputs, where a cluster's cache does not look.
            task.set_caching_options(False)
        return task

    def _place(self, name: str, task: PipelineTask, spec: StageSpec, config: StageConfig) -> None:
        """What the tier's machines and the cluster say of a task; nothing for an environment of one machine."""
        environment = self.settings.environment
        if not environment.remote:
            return
        jobs = load_tier(tier_of(config, self.settings.tier)).jobs
        job = jobs.of(spec)
        tried_again(task, jobs.retry)
        if spec.spread and (refused := config.refuses(job.strategy)) is not None:
            raise UsageError(f"{name}: jobs.strategy = {job.strategy}: {refused} (jobs.stages.{spec.name}.strategy)")
        told(task, spec, job, environment.tracking_uri)
        if environment.kubernetes is not None:
            placed(task, spec, instance_of(job, spec.name), job.instance_count, environment.kubernetes)

    def artifact(self, uri: PipelineParameterChannel, kind: ArtifactKind) -> PipelineArtifactChannel:
        """An artifact that lies at a pipeline parameter's URI when the execution starts."""
        imported: PipelineTask = dsl.importer(artifact_uri=uri, artifact_class=KINDS[kind])
        return imported.set_display_name(uri.name.removesuffix("_uri")).output


def tier_of(config: StageConfig, default: Tier) -> Tier:
    """The tier whose machines run a task: the one that the task works for, else the DAG's."""
    return Tier(getattr(config, "tier", default))


def component(name: str, spec: StageSpec, image: str, entry_point: tuple[str, ...]) -> ContainerComponent:
    """A stage as a KFP container component."""
    inputs = {key: structures.InputSpec(type=_artifact(kind)) for key, kind in spec.inputs.items()}
    for key in spec.parameters:
        field = spec.config.model_fields[key]
        inputs[key] = structures.InputSpec(type=TYPES[field.annotation], description=field.description)
    inputs["config"] = structures.InputSpec(type="String", description="The rest of the configuration, as JSON.")
    outputs: Mapping[str, structures.OutputSpec] = {
        **{key: structures.OutputSpec(type=_artifact(kind)) for key, kind in spec.all_outputs.items()},
        **{key: structures.OutputSpec(type=TYPES[kind]) for key, kind in spec.scalars.items()},
    }
    container = structures.ContainerSpecImplementation(
        image=image, command=[*entry_point, spec.name], args=["--executor_input", "{{$}}"]
    )
    return ContainerComponent(
        structures.ComponentSpec(
            name=name.replace("_", "-"),
            inputs=inputs,
            outputs=outputs,
            implementation=structures.Implementation(container=container),
        ),
        pipeline_func=None,
    )


def _artifact(kind: ArtifactKind) -> str:
    return create_bundled_artifact_type(KINDS[kind].schema_title, KINDS[kind].schema_version)


def pipeline(name: str) -> Callable[[Callable[..., None]], GraphComponent]:
    """`dsl.pipeline`, with each parameter described as the specs describe it."""

    def decorate(function: Callable[..., None]) -> GraphComponent:
        known = descriptions()
        lines = [f"    {parameter}: {known[parameter]}" for parameter in inspect.signature(function).parameters]
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
        return dsl.pipeline(name=name)(function)

    return decorate


def descriptions() -> dict[str, str]:
    """What each parameter of a pipeline means, in one line."""
    fields = {
        key: " ".join((spec.config.model_fields[key].description or "").split())
        for spec in map(spec_of, reversed(STAGES))
        for key in spec.parameters
        if spec.config.model_fields[key].description
    }
    return fields | {
        "night": "Label of the night, for tags and reports; no stage reads it.",
        "dataset_uri": "Data set to train on, validated.",
        "traces_uri": "Trajectories that the student learns from, verified.",
        "base_uri": "Policy that training starts from.",
        "champion_uri": "Policy that serves the tier now; its base where none does.",
        "teacher_uri": "Policy of the tier above, whose answers the student learns.",
        "student_uri": "Policy that the student starts from.",
        "silver_base_uri": "Policy that the Silver student starts from.",
        "silver_champion_uri": "Policy that serves Silver now; its base where none does.",
        "gold_base_uri": "Policy that the Gold student starts from.",
        "gold_champion_uri": "Policy that serves Gold now; its base where none does.",
    }

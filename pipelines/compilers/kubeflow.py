"""A DAG as KFP's intermediate representation, and as the YAML that any Kubeflow cluster takes.

The representation is what everything else starts from: the local engine runs it, and other compilers read it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.dsl.graph_component import GraphComponent

from components.shared.contracts.errors import unknown
from pipelines.configuration import Overrides, Settings, check_names
from pipelines.definitions.catalogue import DAGS
from pipelines.definitions.composer import Composer, Task


@dataclass(frozen=True, kw_only=True)
class CompiledDag:
    """One DAG for one environment and tier."""

    name: str
    settings: Settings
    ir: Mapping[str, Any]
    """KFP's PipelineSpec as plain data."""
    platform: Mapping[str, Any]
    """What kfp-kubernetes adds, as plain data; empty for an environment without a cluster."""
    tasks: Mapping[str, Task]
    """The stages' tasks in the order in which data flows; importers are not among them."""

    @property
    def file_stem(self) -> str:
        """What a compiled file is called: the nightly DAG goes through every tier, the others are of one."""
        return self.name if self.name == "nightly" else f"{self.name}-{self.settings.tier}"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The pipeline's parameters by name, as the representation describes them."""
        return self.ir["root"].get("inputDefinitions", {}).get("parameters", {})


def compile_dag(name: str, settings: Settings) -> CompiledDag:
    """Compile a DAG by name.

    Raises UsageError for an unknown DAG, for a setting that names no stage or parameter of it, and for a configuration
    that a stage does not take: nothing has run or been written then.
    """
    if name not in DAGS:
        raise unknown("DAG", name, DAGS)
    return compile_definition(name, import_module(f"pipelines.definitions.{name}").define, Composer(settings))


def from_data(dag: CompiledDag) -> CompiledDag:
    """What is left of a DAG once its data set is there; the DAG itself where its data comes from elsewhere anyway."""
    define = getattr(import_module(f"pipelines.definitions.{dag.name}"), "define_from_data", None)
    if define is None:
        return dag
    # The settings have been checked against the whole DAG, some of whose stages and parameters this one has not.
    settings = replace(dag.settings, layers=(*dag.settings.layers, Overrides()))
    return compile_definition(dag.name, define, Composer(settings))


def compile_definition(name: str, define: Callable[[Composer], GraphComponent], compose: Composer) -> CompiledDag:
    """Compile what `define` makes with a composer."""
    graph = define(compose)
    dag = CompiledDag(
        name=name,
        settings=compose.settings,
        ir=json_format.MessageToDict(graph.pipeline_spec),
        platform=json_format.MessageToDict(graph.platform_spec),
        tasks=compose.tasks,
    )
    stages = {*compose.tasks, *(task.spec.name for task in compose.tasks.values())}
    check_names(compose.settings.layers[-1], f" of {name}", parameters=dag.parameters, stages=stages)
    return dag


def to_yaml(dag: CompiledDag) -> str:
    """The representation as YAML, the platform's part as a second document: equal DAGs give equal bytes."""
    documents = [dict(dag.ir), *([dict(dag.platform)] if dag.platform else [])]
    return yaml.safe_dump_all(documents, sort_keys=True, width=120)

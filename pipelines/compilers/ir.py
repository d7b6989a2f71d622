"""KFP's intermediate representation, read as what a workflow engine that knows no KFP needs: steps, gates and where each
value comes from.

Only what all engines can express is read; everything else is refused by name, with the way out. Importers dissolve: what
they import is a pipeline parameter's URI.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from components.shared.contracts.errors import UsageError
from pipelines.compilers.kubeflow import CompiledDag

READ = {"cachingOptions", "componentRef", "dependentTasks", "inputs", "retryPolicy", "taskInfo", "triggerPolicy"}
"""Keys of a task that are understood."""
PARALLEL = "ParallelFor has no counterpart: write one task for each item, or start one execution for each"
EXIT = "ExitHandler has no counterpart: let the state machine that starts the execution act on its end"
SUB_DAG = f"a pipeline in a pipeline has no counterpart: write its tasks into the DAG itself; {EXIT}"
REFUSED = dict.fromkeys(("parameterIterator", "artifactIterator", "iteratorPolicy"), PARALLEL)
CONDITION = re.compile(
    r"(?:int\(|double\()?inputs\.parameter_values\['(?P<channel>[^']+)'\]\)? (?P<operator>==|!=|>=|<=|>|<) (?P<literal>.+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A pipeline parameter's value."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """An artifact, or a scalar, that a step of the pipeline puts out."""

    step: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    value: JsonValue


Source = Parameter | Output | Constant


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """KFP's retry policy of one task."""

    count: int
    interval_s: int
    backoff: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One task that runs a container."""

    name: str
    """As KFP writes it: with hyphens."""
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    artifacts: Mapping[str, Parameter | Output]
    """Where each input artifact comes from."""
    parameters: Mapping[str, Parameter | Constant]
    after: tuple[str, ...]
    """Steps that must be done before, data or not."""
    cached: bool
    retries: Retries | None

    @property
    def task(self) -> str:
        """The name by which the definitions and the configuration know it."""
        return self.name.replace("-", "_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Steps that run only where one scalar passes one comparison."""

    name: str
    left: Parameter | Output
    operator: str
    right: JsonValue
    body: "tuple[Node, ...]"


Node = Step | Gate


@dataclass(frozen=True, kw_only=True, slots=True)
class Workflow:
    """A whole pipeline."""

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, JsonValue]]
    """As KFP describes them: parameterType, defaultValue, description."""
    body: tuple[Node, ...]


def read_workflow(dag: CompiledDag) -> Workflow:
    """What a compiled DAG says. Raises UsageError for whatever not every engine has."""
    info = dag.ir["pipelineInfo"]
    scope = _Scope(inputs={name: Parameter(name=name) for name in dag.parameters})
    return Workflow(
        name=info["name"],
        description=info.get("description", ""),
        parameters=dag.parameters,
        body=_Reader(dag).body(dag.ir["root"]["dag"], scope),
    )


def steps(body: Sequence[Node]) -> Iterator[Step]:
    """Every step, those behind gates included, in the order in which data flows."""
    for node in body:
        if isinstance(node, Step):
            yield node
        else:
            yield from steps(node.body)


def gates(body: Sequence[Node]) -> Iterator[Gate]:
    """Every gate, an outer one before those in it."""
    for node in body:
        if isinstance(node, Gate):
            yield node
            yield from gates(node.body)


def predecessors(body: Sequence[Node], gate: Gate | None = None) -> dict[str, tuple[str, ...]]:
    """By task, the tasks that it waits for: those that it reads, comes after, or whose scalar opens its gate."""
    found: dict[str, tuple[str, ...]] = {}
    for node in body:
        if isinstance(node, Gate):
            found |= predecessors(node.body, node)
            continue
        sources = [*node.artifacts.values(), *([gate.left] if gate else [])]
        names = [*(source.step for source in sources if isinstance(source, Output)), *node.after]
        found[node.task] = tuple(dict.fromkeys(name.replace("-", "_") for name in names))
    return found


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """What names mean inside one sub-DAG."""

    inputs: Mapping[str, Source]
    imported: dict[str, Parameter] = field(default_factory=dict)
    """Pipeline parameters by the importer that reads them."""


class _Reader:
    """Reads the tasks of one compiled DAG."""

    def __init__(self, dag: CompiledDag):
        self._components = dag.ir.get("components", {})
        self._executors = dag.ir["deploymentSpec"]["executors"]
        self._order = {name.replace("_", "-"): number for number, name in enumerate(dag.tasks)}

    def body(self, dag: Mapping[str, Any], scope: _Scope) -> tuple[Node, ...]:
        """The nodes of a (sub-)DAG. KFP sorts tasks by name; here they stand in the order in which they were defined."""
        if dag.get("outputs"):
            raise UsageError(
                f"{self._first(dag)}: a branch whose output is read outside it (OneOf, Collected) cannot rejoin: "
                "let the step before the branch put out what is accepted"
            )
        tasks = dag["tasks"]
        for name, task in tasks.items():
            executor = self._executor(task)
            if "importer" in executor:
                scope.imported[name] = self._imported(name, task, executor["importer"], scope)
        nodes = [self._node(name, task, scope) for name, task in tasks.items() if name not in scope.imported]
        return tuple(sorted(nodes, key=self._position))

    def _node(self, name: str, task: Mapping[str, Any], scope: _Scope) -> Node:
        refuse_unknown(name, task)
        component = self._components[task["componentRef"]["name"]]
        if "dag" not in component:
            return self._step(name, task, scope)
        condition = task.get("triggerPolicy", {}).get("condition")
        if condition is None:
            raise UsageError(f"{name}: {SUB_DAG}")
        found = CONDITION.fullmatch(condition)
        if found is None:
            raise UsageError(
                f"{name}: condition {condition!r} is not one comparison of one scalar with a constant: write nested If"
            )
        inner = _Scope(inputs=self._inputs(name, task, scope))
        left = inner.inputs[found["channel"]]
        assert isinstance(left, Parameter | Output)
        body = self.body(component["dag"], inner)
        label = task.get("taskInfo", {}).get("name", name)
        return Gate(name=label, left=left, operator=found["operator"], right=literal(found["literal"]), body=body)

    def _step(self, name: str, task: Mapping[str, Any], scope: _Scope) -> Step:
        executor = self._executor(task)
        if "container" not in executor:
            raise UsageError(f"{name}: a {'/'.join(executor)} executor is not taken: write a container component")
        inputs = self._inputs(name, task, scope)
        listed = task.get("inputs", {})
        for key in listed.get("parameters", {}):
            if isinstance(inputs[key], Output):
                raise UsageError(f"{name}: {key} is a scalar of another task: pass it in an artifact")
        retry = task.get("retryPolicy")
        return Step(
            name=name,
            image=executor["container"].get("image", ""),
            command=tuple(executor["container"].get("command", ())),
            environment={item["name"]: item["value"] for item in executor["container"].get("env", ())},
            artifacts={key: inputs[key] for key in listed.get("artifacts", {})},  # type: ignore[misc]
            parameters={key: inputs[key] for key in listed.get("parameters", {})},  # type: ignore[misc]
            after=tuple(other for other in task.get("dependentTasks", ()) if other not in scope.imported),
            cached=task.get("cachingOptions", {}).get("enableCache", False),
            retries=retries(retry) if retry else None,
        )

    def _inputs(self, name: str, task: Mapping[str, Any], scope: _Scope) -> dict[str, Source]:
        listed = task.get("inputs", {})
        return {
            key: self._source(f"{name}.{key}", value, scope)
            for kind in ("artifacts", "parameters")
            for key, value in listed.get(kind, {}).items()
        }

    def _source(self, where: str, value: Mapping[str, Any], scope: _Scope) -> Source:
        if "componentInputParameter" in value:
            return scope.inputs[value["componentInputParameter"]]
        if "componentInputArtifact" in value:
            return scope.inputs[value["componentInputArtifact"]]
        if "taskOutputArtifact" in value:
            output = value["taskOutputArtifact"]
            producer = output["producerTask"]
            return scope.imported.get(producer) or Output(step=producer, key=output["outputArtifactKey"])
        if "taskOutputParameter" in value:
            output = value["taskOutputParameter"]
            return Output(step=output["producerTask"], key=output["outputParameterKey"])
        constant = value.get("runtimeValue", {}).get("constant")
        if constant is None or "{{$" in str(constant):
            raise UsageError(f"{where}: {json.dumps(dict(value))} is no plain value: pass a constant or a parameter")
        return Constant(value=constant)

    def _imported(self, name: str, task: Mapping[str, Any], importer: Mapping[str, Any], scope: _Scope) -> Parameter:
        uri = task["inputs"]["parameters"]["uri"]
        source = self._source(f"{name}.uri", uri, scope)
        if "runtimeParameter" not in importer["artifactUri"] or not isinstance(source, Parameter):
            raise UsageError(f"{name}: an importer takes a pipeline parameter as its URI: declare one")
        return source

    def _executor(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        label = self._components[task["componentRef"]["name"]].get("executorLabel")
        return self._executors[label] if label else {}

    def _position(self, node: Node) -> int:
        first = node if isinstance(node, Step) else next(steps(node.body))
        return self._order[first.name]

    def _first(self, dag: Mapping[str, Any]) -> str:
        return next(iter(dag["tasks"]))


def refuse_unknown(name: str, task: Mapping[str, Any]) -> None:
    """Raises UsageError for a feature of KFP that is not read here."""
    for key in task.keys() - READ:
        raise UsageError(f"{name}: {REFUSED.get(key, f'{key} has no counterpart: leave it out')}")
    if task.get("triggerPolicy", {}).get("strategy"):
        raise UsageError(f"{name}: {EXIT}")


def retries(policy: Mapping[str, Any]) -> Retries:
    interval = str(policy.get("backoffDuration", "0s")).removesuffix("s")
    return Retries(
        count=int(policy["maxRetryCount"]), interval_s=round(float(interval)), backoff=policy.get("backoffFactor", 2.0)
    )


def literal(text: str) -> JsonValue:
    """The constant of a condition."""
    return text[1:-1] if text.startswith("'") else json.loads(text)

"""One DAG, three engines: the same steps, edges, parameters, gates and retries in KFP's IR, in SageMaker's JSON and in what
the local engine comes to. Each is read here by its own rules, none by the compiler's."""

import json
import re
from dataclasses import dataclass, field

import pytest

from components.entrypoints.kfp import local_path, write_executor_output
from components.shared.contracts.stage import Report
from pipelines.engines.kfp_adapter import run_ir


@dataclass
class Shape:
    """What must be the same everywhere."""

    edges: set = field(default_factory=set)
    """Producer, output, consumer, input."""
    parameters: set = field(default_factory=set)
    """Task, configuration key, pipeline parameter."""
    imports: set = field(default_factory=set)
    """Task, input, pipeline parameter."""
    gates: dict = field(default_factory=dict)
    """The scalars that a task waits for, outermost first."""
    retries: dict = field(default_factory=dict)
    cached: dict = field(default_factory=dict)


def of_ir(ir):
    """The shape of KFP's IR, straight from its JSON."""
    shape, components = Shape(), ir["components"]

    def resolve(value, scope):
        for key in ("componentInputArtifact", "componentInputParameter"):
            if key in value:
                return scope[value[key]]
        if "taskOutputArtifact" in value:
            output = value["taskOutputArtifact"]
            return scope["import"].get(output["producerTask"]) or (output["producerTask"], output["outputArtifactKey"])
        if "taskOutputParameter" in value:
            return value["taskOutputParameter"]["producerTask"], value["taskOutputParameter"]["outputParameterKey"]
        return None

    def walk(tasks, scope, gates):
        scope["import"] = {
            name: scope[task["inputs"]["parameters"]["uri"]["componentInputParameter"]]
            for name, task in tasks.items()
            if name.startswith("importer")
        }
        for name, task in tasks.items():
            inputs = task.get("inputs", {})
            if name in scope["import"]:
                continue
            if "triggerPolicy" in task:
                inner = {k: resolve(v, scope) for kind in inputs.values() for k, v in kind.items()}
                channel = re.search(r"\['(.+)'\] (>= .+)", task["triggerPolicy"]["condition"])
                body = components[task["componentRef"]["name"]]["dag"]["tasks"]
                walk(body, inner, [*gates, (*inner[channel[1]], float(channel[2].split()[1]))])
                continue
            for key, value in inputs.get("artifacts", {}).items():
                source = resolve(value, scope)
                known = shape.imports if isinstance(source, str) else shape.edges
                known.add((name, key, source) if isinstance(source, str) else (*source, name, key))
            for key, value in inputs.get("parameters", {}).items():
                if source := resolve(value, scope):
                    shape.parameters.add((name, key, source))
            shape.gates[name] = gates
            shape.retries[name] = task["retryPolicy"]["maxRetryCount"]
            shape.cached[name] = task["cachingOptions"].get("enableCache", False)

    walk(ir["root"]["dag"]["tasks"], {name: name for name in ir["root"]["inputDefinitions"]["parameters"]}, [])
    return shape


def of_sagemaker(definition):
    """The shape of SageMaker's JSON. Steps that only pass on a report are seen through."""
    shape = Shape()

    def source(value):
        text = json.dumps(value)
        if found := re.search(r"Parameters\.(\w+)", text):
            return found[1]
        step = re.search(r"Steps\.([\w-]+)\.", text)[1].removeprefix("report-")
        output = re.search(r"Outputs\['(\w+)'\]", text) or re.search(r"output/model/(\w+)", text)
        return step, output[1]

    def walk(steps, gates):
        for step in steps:
            name, request = step["Name"], step["Arguments"]
            if step["Type"] == "Condition":
                (condition,) = request["Conditions"]
                got = condition["LeftValue"]["Std:JsonGet"]
                producer = got["PropertyFile"]["Get"].split(".")[1].removeprefix("report-")
                assert condition["Type"] == "GreaterThanOrEqualTo"
                walk(request["IfSteps"], [*gates, (producer, got["Path"].split(".")[-1], condition["RightValue"])])
                assert request["ElseSteps"] == []
                continue
            if name.startswith("report-"):
                continue
            for key, uri in artifacts(step):
                found = source(uri)
                known = shape.imports if isinstance(found, str) else shape.edges
                known.add((name, key, found) if isinstance(found, str) else (*found, name, key))
            shape.parameters |= {(name, key, parameter) for key, parameter in settings(step)}
            shape.gates[name] = gates
            shape.retries[name] = step["RetryPolicies"][0]["MaxAttempts"]
            shape.cached[name] = step.get("CacheConfig", {}).get("Enabled", False)

    walk(definition["Steps"], [])
    return shape


def artifacts(step):
    """Name and URI of each input."""
    if step["Type"] == "Training":
        channels = step["Arguments"]["InputDataConfig"]
        return [(channel["ChannelName"], channel["DataSource"]["S3DataSource"]["S3Uri"]) for channel in channels]
    return [(item["InputName"], item["S3Input"]["S3Uri"]) for item in step["Arguments"]["ProcessingInputs"]]


def settings(step):
    """Configuration key and pipeline parameter of each value that a parameter fills."""
    request = step["Arguments"]
    if step["Type"] == "Training":
        given = request["HyperParameters"].items()
    else:
        arguments = request["AppSpecification"]["ContainerArguments"]
        given = [argument["Std:Join"]["Values"] for argument in arguments if isinstance(argument, dict)]
    found = [(key, re.search(r"Parameters\.(\w+)", json.dumps(value))) for key, value in given]
    return [(key, match[1]) for key, match in found if match]


def test_ir_and_sagemaker_say_the_same(dag, sagemaker_pipeline):
    ir = of_ir(dag.ir)
    assert of_sagemaker(sagemaker_pipeline.definition) == ir
    assert set(ir.gates) == {name.replace("_", "-") for name in dag.tasks}


def test_the_parameters_are_the_same(dag, sagemaker_pipeline):
    types = {"STRING": ("String", str), "NUMBER_INTEGER": ("Integer", int), "NUMBER_DOUBLE": ("Float", float)}
    listed = {parameter["Name"]: parameter for parameter in sagemaker_pipeline.definition["Parameters"]}
    assert listed.keys() == dag.parameters.keys()
    for name, value in dag.parameters.items():
        kind, python = types[value["parameterType"]]
        assert (listed[name]["Type"], listed[name]["Description"]) == (kind, value["description"])
        assert listed[name].get("DefaultValue") == value.get("defaultValue")
        assert "defaultValue" not in value or type(listed[name]["DefaultValue"]) is python


@pytest.mark.slow
@pytest.mark.parametrize("open_gates", [99, 1, 0])
def test_the_local_engine_comes_to_the_same(dags, tmp_path, open_gates):
    """kfp.local runs the nightly DAG with stages that only put out their scalars: 99 opens every gate, 1 the first."""
    dag = dags[next(case for case in dags if case[0] == "nightly")]
    ir, came, passed = of_ir(dag.ir), [], []

    def run_task(call):
        spec = dag.tasks[call.task].spec
        for item in call.executor_input["outputs"].get("artifacts", {}).values():
            local_path(item["artifacts"][0]["uri"]).mkdir(parents=True, exist_ok=True)
        scalars = {}
        for name in spec.scalars:
            passed.append(name)
            scalars[name] = 0.0 if len(passed) <= open_gates else -0.1
        came.append((call.task.replace("_", "-"), call.executor_input["inputs"]))
        write_executor_output(spec, call.executor_input, Report(stage=spec.name, summary="", scalars=scalars))
        return True

    uris = {name: f"/in/{name}" for name in dag.parameters if name.endswith("_uri")}
    run_ir(dag.ir, uris, run_task, scratch=tmp_path / "kfp", log=tmp_path / "log")
    order = [name for name, _ in came]
    assert set(order) == {name for name, gates in ir.gates.items() if len(gates) <= open_gates}
    assert all(order.index(a) < order.index(b) for a, _, b, _ in ir.edges if b in order)
    for name, given in came:
        places = {key: value["artifacts"][0]["uri"] for key, value in given.get("artifacts", {}).items()}
        for _, key, parameter in {item for item in ir.imports if item[0] == name}:
            assert places[key] == uris[parameter]
        for producer, output, _, key in {edge for edge in ir.edges if edge[2] == name}:
            assert f"/{producer}/" in places[key]
            assert places[key].endswith(f"/{output}")

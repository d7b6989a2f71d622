"""Calls of AWS against botocore's service models: what the machines ask for, checked before and while they run."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.model import OperationModel, Shape

SESSION = botocore.session.get_session()
SERVICES = {"sfn": "stepfunctions", "states": "stepfunctions"}
"""What botocore calls a service, where a state's Resource calls it otherwise."""
OPTIMISED = {"sns": {"publish"}, "states": {"startExecution.sync:2"}}
"""Integrations without aws-sdk that the machines may use."""


@functools.cache
def operations(service: str) -> dict[str, str]:
    """Operation by its name in snake case, as boto3 has it."""
    model = SESSION.get_service_model(SERVICES.get(service, service))
    return {xform_name(name): name for name in model.operation_names}


def operation(service: str, name: str) -> OperationModel:
    """An operation by its name in snake case."""
    return SESSION.get_service_model(SERVICES.get(service, service)).operation_model(operations(service)[name])


def faults(shape: Shape, value: Any, path: str, known: bool = True) -> Iterator[str]:
    """What a value breaks of its shape: members, required ones, types, enumerations, lengths, patterns.

    A JSONata expression stands for any value, unless all is `known`.
    """
    if not known and isinstance(value, str) and value.startswith("{%"):
        return
    kinds = {
        "structure": dict, "map": dict, "list": list, "string": str, "integer": int, "long": int, "double": (int, float),
        "float": (int, float), "boolean": bool,
    }  # fmt: skip
    if not isinstance(value, kinds.get(shape.type_name, object)):
        yield f"{path}: {value!r} is no {shape.type_name}"
    elif shape.type_name == "structure":
        members = {name[0].upper() + name[1:]: member for name, member in shape.members.items()}
        required = {name[0].upper() + name[1:] for name in shape.required_members}
        given = {name[0].upper() + name[1:]: item for name, item in value.items()}
        yield from (f"{path}: {name} is not known" for name in given.keys() - members.keys())
        yield from (f"{path}: {name} is missing" for name in required - given.keys())
        for name in given.keys() & members.keys():
            yield from faults(members[name], given[name], f"{path}.{name}", known)
    elif shape.type_name == "list":
        for number, item in enumerate(value):
            yield from faults(shape.member, item, f"{path}[{number}]", known)
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from faults(shape.key, key, f"{path} key {key}", known)
            yield from faults(shape.value, item, f"{path}.{key}", known)
    elif shape.type_name == "string":
        yield from text_faults(shape, value, path, known)


def text_faults(shape: Shape, value: str, path: str, known: bool) -> Iterator[str]:
    if not known and "${" in value:
        return
    limits = shape.metadata
    if limits.get("enum") and value not in limits["enum"]:
        yield f"{path}: {value!r} is none of {', '.join(limits['enum'])}"
    if len(value) < limits.get("min", 0) or len(value) > limits.get("max", len(value)):
        yield f"{path}: {value!r} has {len(value)} characters"
    if limits.get("pattern") and not re.fullmatch(python_pattern(limits["pattern"]), value):
        yield f"{path}: {value!r} does not match {limits['pattern']}"


def python_pattern(pattern: str) -> str:
    """A pattern of a service model for `re`, which knows no classes of Unicode."""
    for kind, ours in {"L": r"\w", "M": r"\w", "N": r"\w", "Z": r"\s", "P": r"\S", "S": r"\S"}.items():
        pattern = pattern.replace(rf"\p{{{kind}}}", ours)
    return re.sub(r"\$\{\d+,\d+\}$", "", pattern)


def lint(machine: Mapping[str, Any]) -> list[str]:
    """What is wrong with the calls of a state machine, by state."""
    return [fault for name, state in states(machine) for fault in call_faults(name, state)]


def call_faults(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    """The faults of one state's call, where it makes one."""
    if state["Type"] != "Task":
        return
    found = re.fullmatch(r"arn:aws:states:::(?P<sdk>aws-sdk:)?(?P<service>\w+):(?P<action>[\w.:]+)", state["Resource"])
    if not found:
        yield f"{name}: {state['Resource']} is no call"
        return
    service, action = found["service"], found["action"]
    if not found["sdk"] and action not in OPTIMISED.get(service, ()):
        yield f"{name}: {service}:{action} is no optimised integration"
        return
    snake = xform_name(action.partition(".")[0])
    if snake not in operations(service) or action[0].isupper():
        yield f"{name}: {service} has no {action}"
        return
    shape = operation(service, snake).input_shape
    arguments = dict(state.get("Arguments", {}))
    if service == "states":
        arguments["Input"] = json.dumps(arguments.get("Input", {}))
    yield from faults(shape, arguments, name, known=False)


def states(machine: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every state by its name, those of branches and maps included."""
    for name, state in machine["States"].items():
        yield name, state
        for branch in [*state.get("Branches", []), *([state["ItemProcessor"]] if "ItemProcessor" in state else [])]:
            yield from states(branch)

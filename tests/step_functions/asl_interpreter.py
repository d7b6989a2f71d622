"""moto's interpreter of the Amazon States Language, made to behave as AWS does where the machines rely on it.

moto 5.2 interprets ASL against its own services. It lacks a JSONata engine, sleeps through every wait, calls some errors by
other names than AWS, and runs its calls past anything that could fault them. Inside `interpreting`, JSONata is evaluated by
jsonata-python, waits are noted and skipped, and every call of a state goes to the given account.
"""

import contextlib
import copy
import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import jsonata
import pytest
from moto.stepfunctions.parser.api import EvaluationFailedEventDetails, HistoryEventType
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent, FailureEventException
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.common.string.string_expression import StringJSONata
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_aws_sdk,
    state_task_service_callback,
    state_task_service_sfn,
    state_task_service_sns,
)
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import WaitFunction
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

SERVICES = (
    state_task_service_aws_sdk.StateTaskServiceAwsSdk,
    state_task_service_sfn.StateTaskServiceSfn,
    state_task_service_sns.StateTaskServiceSns,
)
ERROR_NAMES = {"sagemaker": "SageMaker", "s3": "S3", "cloudwatch": "CloudWatch", "sfn": "Sfn"}
"""What the errors of a service begin with; one that its model does not declare is called SERVICE.SERVICEException."""
_parsed = threading.local()


class Account(Protocol):
    """What the states of a machine call."""

    def call(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Answer a call, named as boto3 names it. Raises ClientError."""

    def wait(self, seconds: float) -> None:
        """Take note of a pause."""


@contextlib.contextmanager
def interpreting(account: Account) -> Iterator[None]:
    """Machines that run inside the block call `account`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AmazonStateLanguageParser, "parse", staticmethod(_parse))
        patch.setattr(StringJSONata, "_eval_body", _evaluate_jsonata)
        patch.setattr(WaitFunction, "_wait_interval", lambda self, env, wait_seconds: account.wait(wait_seconds))
        patch.setattr(retrier_decl, "time", _Sleeper(account))
        patch.setattr(state_task_service_callback, "_DELAY_SECONDS_SYNC_CONDITION_CHECK", 0.05)
        for name, prefix in ERROR_NAMES.items():
            patch.setitem(state_task_service_aws_sdk._SERVICE_ERROR_NAMES, name, prefix)
        patch.setattr(state_task_service_sfn.StateTaskServiceSfn, "_normalise_response", _capitalise)
        for service in SERVICES:
            patch.setattr(service, "_eval_service_task", _calling(account))
        yield


_parse_once = functools.cache(AmazonStateLanguageParser.parse)


def _parse(definition: str) -> Any:
    """A program of its own for each execution; parsing takes 30 times as long as copying (0.5 s)."""
    program, tree = _parse_once(definition)
    return copy.deepcopy(program), tree


class _Sleeper:
    """Stands in for the module `time` where a retry pauses."""

    def __init__(self, account: Account):
        self.sleep = account.wait


def _calling(account: Account) -> Any:
    def call(
        self: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        service, operation = self._get_boto_service_name(), self._get_boto_service_action()
        if service == "stepfunctions":
            normalised_parameters = {name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()}
        answer = account.call(service, operation, normalised_parameters)
        env.stack.append({name[0].upper() + name[1:]: value for name, value in answer.items()})

    return call


def _capitalise(self: Any, response: dict[str, Any], **_: Any) -> None:
    """States see every member with a capital, whatever the service calls it; moto leaves out that step."""
    for name in list(response):
        response[name[0].upper() + name[1:]] = response.pop(name)


def _evaluate_jsonata(self: StringJSONata, env: Any) -> None:
    store = env.variable_store
    variables = {"states": env.states._states_data, **store._outer_scope, **store._inner_scope}
    try:
        result = evaluate(self.expression, variables)
        if result is None and not evaluate(f"$exists({self.expression})", variables):
            raise jsonata.JException("undefined", 0)
    except jsonata.JException as error:
        _fail(env, f"{self.expression}: {error}")
    env.stack.append(json.loads(json.dumps(result)))


def _fail(env: Any, cause: str) -> None:
    """Raise States.QueryEvaluationError, as for an expression that breaks off or has no value."""
    error = StatesErrorName(typ=StatesErrorNameType.StatesQueryEvaluationError)
    details = EvaluationFailedEventDetails(error=error.error_name, cause=cause)
    raise FailureEventException(
        FailureEvent(
            env=env,
            error_name=error,
            event_type=HistoryEventType.EvaluationFailed,
            event_details=EventDetails(evaluationFailedEventDetails=details),
        )
    )


def evaluate(expression: str, variables: dict[str, Any]) -> Any:
    """The value of a JSONata expression, with the functions that Step Functions adds; None for null and for nothing."""
    cache = _parsed.__dict__
    if expression not in cache:
        cache[expression] = jsonata.Jsonata(f"({expression})")
        cache[expression].register_lambda("parse", json.loads)
        cache[expression].register_lambda("hash", _hash)
    null = jsonata.Utils.NULL_VALUE
    return cache[expression].evaluate(None, {k: null if v is None else v for k, v in variables.items()})


def _hash(text: str, algorithm: str) -> str:
    return hashlib.new(algorithm.replace("-", "").lower(), text.encode()).hexdigest()

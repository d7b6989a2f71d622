"""The one place that reaches into kfp.local, which orchestrates a compiled pipeline: order, conditions, importers, retries.

Two of its limits are met here. It refuses container components in its subprocess runner: for the time of a run its task
handler, which it looks up at each task, is replaced by one that hands the container's command to a function of ours. And
it does not find a task's output in a condition under the name that its compiler gives it, warns and goes on as if the
condition were false: conditions are respelled, and such a warning is an error here, since a gate that could not be read is
not a gate that is shut. tests/pipelines/engines/test_kfp_adapter.py fails when kfp's internals move.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp import local
from kfp.local import pipeline_orchestrator, status, subprocess_task_handler
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.contracts.errors import GateError

EXECUTOR_INPUT = "--executor_input"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCall:
    """One task that KFP wants run."""

    task: str
    """The task's name, which is its component's, with underscores."""
    image: str
    """The image that the container would run."""
    command: tuple[str, ...]
    """The container's command, without the executor input."""
    executor_input: dict[str, Any]
    """KFP's v2 executor contract: where inputs lie and where outputs are expected."""


def run_ir(
    ir: Mapping[str, Any],
    arguments: Mapping[str, Any],
    run_task: Callable[[TaskCall], bool],
    *,
    scratch: Path,
    log: Path,
) -> None:
    """Run a compiled pipeline; `run_task` runs one task and says whether it succeeded.

    A failed task ends what depends on it, as on a cluster. KFP's own messages go to the file `log`, its files below the
    folder `scratch`. What `run_task` raises comes through; a condition that KFP could not read is a GateError.
    """
    spec = json_format.ParseDict(respelled(ir), pipeline_spec_pb2.PipelineSpec())
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(scratch),
        workspace_root=str(scratch / "workspace"),
        raise_on_error=False,
    )
    with (
        log.open("a", encoding="utf-8") as out,
        contextlib.redirect_stdout(out),
        handled_by(run_task),
        gathered_warnings() as messages,
    ):
        pipeline_orchestrator.run_local_pipeline(spec, dict(arguments))
    if messages:
        raise GateError(f"KFP could not read a condition ({messages[0]}): see {log}")


def respelled(ir: Mapping[str, Any]) -> dict[str, Any]:
    """The representation with each condition on a task's output spelled as kfp.local looks it up: TASK--OUTPUT."""
    copied = copy.deepcopy(dict(ir))
    for dag in [copied["root"], *copied["components"].values()]:
        for task in dag.get("dag", {}).get("tasks", {}).values():
            policy = task.get("triggerPolicy", {})
            for name, source in task.get("inputs", {}).get("parameters", {}).items():
                if "condition" in policy and "taskOutputParameter" in source:
                    producer, key = (source["taskOutputParameter"][k] for k in ("producerTask", "outputParameterKey"))
                    policy["condition"] = policy["condition"].replace(
                        f"'{name}'", f"'pipelinechannel--{producer}--{key}'"
                    )
    return copied


@contextlib.contextmanager
def gathered_warnings() -> Iterator[list[str]]:
    """The warnings that kfp.local logs, which it does on the root logger."""
    messages: list[str] = []

    class Gatherer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    gatherer = Gatherer(logging.WARNING)
    logging.getLogger().addHandler(gatherer)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(gatherer)


@contextlib.contextmanager
def handled_by(run_task: Callable[[TaskCall], bool]) -> Iterator[None]:
    """Let `run_task` run the container components that kfp.local comes to."""

    class Handler(subprocess_task_handler.SubprocessTaskHandler):
        def validate_image(self, image: str) -> None:
            """Any image will do: the command runs in this environment."""

        def validate_not_container_component(self, full_command: list[str]) -> None:
            """Container components are what this handler is for."""

        def validate_not_containerized_python_component(self, full_command: list[str]) -> None:
            """As above."""

        def run(self) -> status.Status:
            return (
                status.Status.SUCCESS if run_task(task_call(self.image, self.full_command)) else status.Status.FAILURE
            )

    original = subprocess_task_handler.SubprocessTaskHandler
    subprocess_task_handler.SubprocessTaskHandler = Handler
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        subprocess_task_handler.SubprocessTaskHandler = original


def task_call(image: str, full_command: list[str]) -> TaskCall:
    """The call that a container's image and full command stand for."""
    split = full_command.index(EXECUTOR_INPUT)
    executor_input = json.loads(full_command[split + 1])
    component = Path(executor_input["outputs"]["outputFile"]).parent.name
    return TaskCall(
        task=component.replace("-", "_"),
        image=image,
        command=tuple(full_command[:split]),
        executor_input=executor_input,
    )

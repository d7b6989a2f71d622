"""Run one stage: check what comes in, run it, and let its outputs appear whole or not at all."""

import contextlib
import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from pydantic import JsonValue

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import STRATEGY
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.stage import Report, StageConfig, StageSpec
from components.shared.storage.artifacts import Manifest, seal, verify, whole, write_text
from components.shared.training.distributed.launch import main_process, one_of_many, strategy_of_job

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A stage to run: its configuration as written, and where its artifacts lie."""

    spec: StageSpec
    config: Mapping[str, JsonValue]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]


def execute(request: Request) -> Report:
    """Run the stage and return its report.

    Raises UsageError for a bad configuration, one that several processes cannot follow together, or a missing input or
    output, CorruptArtifact for an input that does not match its manifest, and whatever the stage itself raises; then no
    output exists.
    """
    spec = request.spec
    config = parse_config(spec.config, request.config, spec.name)
    if one_of_many():
        strategy = strategy_of_job()
        if (refused := config.refuses(strategy)) is not None:
            raise UsageError(f"{spec.name}: {STRATEGY} = {strategy}: {refused}")
    for what, wanted, given in (("input", spec.inputs, request.inputs), ("output", spec.all_outputs, request.outputs)):
        missing = [name for name in wanted if name not in given]
        if missing:
            raise UsageError(f"{spec.name}: no {what} {missing[0]!r} given: add --{what} {missing[0]}=DIR")
    manifests = {name: verify(request.inputs[name], kind) for name, kind in spec.inputs.items()}
    with contextlib.ExitStack() as stack:
        appear = whole if main_process() else thrown_away
        folders = {name: stack.enter_context(appear(request.outputs[name])) for name in spec.all_outputs}
        report = load(spec).run(config, dict(request.inputs), folders)
        check_scalars(spec, report)
        if not main_process():
            return report
        write_text(folders["report"] / REPORT, json.dumps(report.model_dump(mode="json"), indent=1) + "\n")
        metadata = lineage(spec, config, manifests)
        for name, kind in spec.all_outputs.items():
            seal(folders[name], kind, {**metadata, **report.artifacts.get(name, {})})
    return report


def load(spec: StageSpec) -> ModuleType:
    """The module that does the stage's work.

    The collector is kept from the libraries' million objects, which stay: looking them through while they are made, and
    once more at the end, is a quarter of the CPU time of a stage that only starts (2 s of 8).
    """
    gc.disable()
    try:
        return import_module(f"components.{spec.name}.run")
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def thrown_away(target: Path) -> Iterator[Path]:
    """Where a process writes whose outputs do not count: one of several that train one model together."""
    with TemporaryDirectory(prefix=target.name) as folder:
        yield Path(folder)


def check_scalars(spec: StageSpec, report: Report) -> None:
    """A stage that promised a number to the DAG must have given it."""
    missing = spec.scalars.keys() - report.scalars.keys()
    if missing:
        raise PipelineError(f"{spec.name}: its report lacks {', '.join(sorted(missing))}: mend the stage's run")


def lineage(spec: StageSpec, config: StageConfig, inputs: Mapping[str, Manifest]) -> dict[str, JsonValue]:
    """Where an output comes from: stage, configuration and the digests of its inputs; no path, host or time."""
    return {
        "stage": spec.name,
        "config": config.model_dump(mode="json"),
        "inputs": {name: manifest.digest for name, manifest in inputs.items()},
    }

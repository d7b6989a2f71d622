"""SageMaker's way to start a stage: folders of /opt/ml in, folders of /opt/ml out.

    python -m components STAGE --sagemaker training                   hyperparameters.json, channels, /opt/ml/model/OUTPUT
    python -m components STAGE --sagemaker processing --set KEY=VALUE ...  /opt/ml/processing/{input,output}/NAME
    python -m components STAGE --sagemaker report                     pass on the report of a training job

Everything that SageMaker hands over is a string: constants are JSON where they are not plain text, and the fields that a
pipeline's parameters fill are taken as text, which their type reads. SM_LOCAL_ROOT stands in for /opt/ml on a machine that
is not SageMaker's.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components.entrypoints.execution import REPORT, Request, execute
from components.shared.contracts.environment import CHECKPOINTS, ECHO_METRICS
from components.shared.contracts.errors import UsageError
from components.shared.contracts.stage import ArtifactKind, Report, StageSpec
from components.shared.storage.artifacts import MANIFEST, verify

ROOT = "SM_LOCAL_ROOT"
"""Environment variable: the folder that stands for /opt/ml."""
CAUSE_LIMIT = 1000
"""Bytes of a failure's cause that SageMaker shows."""


class Mode(StrEnum):
    """What SageMaker wants of this container."""

    TRAINING = "training"
    PROCESSING = "processing"
    REPORT = "report"
    """No stage runs: the report that a training job left is checked and passed on, since only a processing job's output
    can be read by a condition."""


def root() -> Path:
    return Path(os.environ.get(ROOT, "/opt/ml"))


def encode(value: JsonValue) -> str:
    """A value as text: plain text as it is, everything else, and text that looks like JSON, as JSON."""
    if isinstance(value, str) and decode(value) == value:
        return value
    return json.dumps(value, sort_keys=True)


def decode(text: str) -> JsonValue:
    """What `encode` wrote."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Nested configuration by dotted key; an empty mapping is a value."""
    found: dict[str, JsonValue] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def configuration(spec: StageSpec, settings: Mapping[str, str]) -> dict[str, JsonValue]:
    """A stage's configuration from dotted keys and texts."""
    nested: dict[str, Any] = {}
    for key, text in settings.items():
        *parents, last = key.split(".")
        into = nested
        for name in parents:
            into = into.setdefault(name, {})
        into[last] = text if key in spec.parameters else decode(text)
    return nested


def run(spec: StageSpec, mode: Mode, settings: Sequence[str]) -> str:
    """Do what SageMaker wants and return the line to print; what fails is raised."""
    if mode == Mode.REPORT:
        return pass_on(spec)
    if mode == Mode.TRAINING:
        return train(spec).summary
    return process(spec, settings).summary


def train(spec: StageSpec) -> Report:
    """A training job: every output is a subfolder of the one model directory."""
    base = root()
    if (base / "checkpoints").is_dir():
        os.environ.setdefault(CHECKPOINTS, str(base / "checkpoints"))
    os.environ.setdefault(ECHO_METRICS, "1")
    request = Request(
        spec=spec,
        config=configuration(spec, hyperparameters(base / "input" / "config" / "hyperparameters.json")),
        inputs=folders(base / "input" / "data", spec.inputs),
        outputs={name: base / "model" / name for name in spec.all_outputs},
    )
    return execute(request)


def process(spec: StageSpec, settings: Sequence[str]) -> Report:
    """A processing job. Its output folders are mounted and so cannot be renamed: finished outputs move into them."""
    base = root() / "processing"
    with scratch(base) as folder:
        request = Request(
            spec=spec,
            config=configuration(spec, dict(pair(item) for item in settings)),
            inputs=folders(base / "input", spec.inputs),
            outputs={name: folder / name for name in spec.all_outputs},
        )
        report = execute(request)
        for name in spec.all_outputs:
            move(folder / name, base / "output" / name)
    return report


def pass_on(spec: StageSpec) -> str:
    """Copy a training job's report, whole, to where a condition can read it."""
    base = root() / "processing"
    source = base / "input" / "report"
    verify(source, ArtifactKind.REPORT)
    with scratch(base) as folder:
        shutil.copytree(source, folder / "report")
        move(folder / "report", base / "output" / "report")
    report = Report.model_validate_json((base / "output" / "report" / REPORT).read_bytes())
    return f"{spec.name}: {', '.join(f'{name} = {value}' for name, value in report.scalars.items())}"


@contextlib.contextmanager
def scratch(base: Path) -> Iterator[Path]:
    """A folder on the volume that outputs are moved from; gone afterwards."""
    folder = base / ".work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Move an artifact's files into a folder that is there already, its manifest last."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: (p.name == MANIFEST, p))
    for path in files:
        into = target / path.relative_to(source)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, into)


def hyperparameters(path: Path) -> dict[str, str]:
    """What SageMaker writes from HyperParameters: a mapping of texts. Raises UsageError where it is not there."""
    if not path.is_file():
        raise UsageError(f"no {path}: --sagemaker training is for SageMaker's containers: use --config FILE")
    return {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}


def folders(base: Path, names: Mapping[str, ArtifactKind]) -> dict[str, Path]:
    """The input folders that are there; `execute` says which is missing."""
    return {name: base / name for name in names if (base / name).is_dir()}


def pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise UsageError(f"--set {item!r} is not KEY=VALUE: write for example --set seed=0")
    return key, value


def tell_failure(mode: Mode, cause: str) -> None:
    """Leave a failure's one line where SageMaker looks for it: it becomes FailureReason, or ExitMessage."""
    path = root() / "output" / ("failure" if mode == Mode.TRAINING else "message")
    line = " ".join(cause.split()).encode()[:CAUSE_LIMIT].decode(errors="ignore")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line, encoding="utf-8")

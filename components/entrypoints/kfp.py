"""KFP's way to start a stage: one JSON argument in, one JSON file out (the v2 executor's contract).

Parameters are the fields that the spec exposes, and `config`, the compiled configuration as JSON; parameters win.
"""

import json
from pathlib import Path
from typing import Any

from components.entrypoints.execution import Request
from components.shared.contracts.stage import Report, StageSpec
from components.shared.storage.artifacts import write_text

MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
"""Where a cluster's launcher mounts remote artifacts."""


def local_path(uri: str) -> Path:
    """The path at which an artifact's URI is mounted."""
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri[len(scheme) :])
    return Path(uri)


def from_executor_input(spec: StageSpec, executor_input: dict[str, Any]) -> Request:
    """The request that KFP makes."""
    inputs = executor_input.get("inputs", {})
    parameters = dict(inputs.get("parameterValues", {}))
    config = json.loads(parameters.pop("config", "{}"))
    return Request(
        spec=spec,
        config={**config, **parameters},
        inputs=_paths(inputs.get("artifacts", {})),
        outputs=_paths(executor_input["outputs"].get("artifacts", {})),
    )


def write_executor_output(spec: StageSpec, executor_input: dict[str, Any], report: Report) -> None:
    """Tell KFP what came out: scalars as parameters, artifacts where it asked for them."""
    outputs = executor_input["outputs"]
    artifacts = {
        name: {"artifacts": [{key: item[key] for key in ("name", "uri") if key in item} | {"metadata": {}}]}
        for name, listed in outputs.get("artifacts", {}).items()
        for item in listed["artifacts"][:1]
    }
    scalars = {name: kind(report.scalars[name]) for name, kind in spec.scalars.items()}
    for name, value in scalars.items():
        target = outputs.get("parameters", {}).get(name, {}).get("outputFile")
        if target:
            write_text(local_path(target), json.dumps(value))
    write_text(local_path(outputs["outputFile"]), json.dumps({"parameterValues": scalars, "artifacts": artifacts}))


def _paths(artifacts: dict[str, Any]) -> dict[str, Path]:
    return {name: local_path(listed["artifacts"][0]["uri"]) for name, listed in artifacts.items()}

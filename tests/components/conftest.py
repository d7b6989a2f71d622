"""A real MLflow store, sealed artifacts and trained stages, for the tests of several components."""

import json

import pytest

from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.performance.mlflow_store import connect
from components.shared.storage.artifacts import seal, write_text


@pytest.fixture
def store_uri(tmp_path):
    """The tracking URI of a fresh MLflow store."""
    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    connect(uri)
    return uri


@pytest.fixture
def run_training(npc_dataset, npc_policy_folder, tmp_path):
    """Runs a training stage on the small data set; returns its report, its curves and its output folders."""

    def go(run, config, name="out"):
        outputs = {key: tmp_path / name / key for key in ("policy", "report")}
        for folder in outputs.values():
            folder.mkdir(parents=True)
        report = run(config, {"dataset": npc_dataset.folder, "policy": npc_policy_folder}, outputs)
        curve = [json.loads(line) for line in (outputs["report"] / "metrics.jsonl").read_text().splitlines()]
        return report, curve, outputs

    return go


@pytest.fixture
def make_policy(tmp_path):
    """Seals a policy of two weights; other weights or metadata make another policy."""

    def make(name="policy", weights=(1.0, 2.0), **metadata):
        from safetensors.torch import save_file
        from torch import tensor

        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file({"weight": tensor(weights)}, folder / "model.safetensors")
        write_text(folder / "config.json", json.dumps({"architectures": ["Toy"], "hidden_size": len(weights)}))
        seal(folder, ArtifactKind.POLICY, metadata)
        return folder

    return make


@pytest.fixture
def make_report(tmp_path):
    """Seals a report folder with the given report, curves, samples and manifest metadata."""

    def make(report: Report, name="report", metrics=(), samples=(), files=None, **metadata):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for file, text in (files or {}).items():
            write_text(folder / file, text)
        write_text(folder / "report.json", report.model_dump_json())
        seal(folder, ArtifactKind.REPORT, metadata)
        return folder

    return make

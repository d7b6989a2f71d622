"""The sink against real MLflow: what a data scientist finds afterwards."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.shared.contracts.errors import CorruptArtifact
from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_sink import BATCH, MlflowSink
from components.shared.performance.mlflow_store import connect
from components.shared.performance.model_registry import ModelRegistry

STEPS = 3 * BATCH // 2
"""Enough points for more than one batch."""


@pytest.fixture
def report(make_report):
    return make_report(
        Report(stage="rlvr", summary="reward rose", scalars={"gate_margin": 0.1}, metrics={"reward": 0.8}),
        metrics=[{"step": i, "loss": 1 / (i + 1), "kl [nats]": 0.25} for i in range(STEPS)],
        samples=[{"step": 0, "prompt": "When?", "reward": 0.5}, {"step": 9, "prompt": "Why?", "faults": ["late"]}],
        files={"figures/curve.svg": "<svg/>"},
        stage="rlvr",
        config={"seed": 3, "kl": {"target": 0.1}, "tasks": ["a", "b"]},
        inputs={},
    )


def started(uri, run_id="night-1"):
    sink = MlflowSink(uri, "pipeline")
    sink.start_run(run_id, {"dag": "nightly"}, {"env": "local", "seed": 3})
    return sink


def runs(uri, query=""):
    client = connect(uri)
    return client.search_runs([client.get_experiment_by_name("pipeline").experiment_id], query)


def child(uri):
    (run,) = runs(uri, "tags.task = 'rlvr'")
    return run


def artifact(run, name):
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_a_run_is_one_parent_with_a_nested_run_a_stage(store_uri, report):
    sink = started(store_uri)
    sink.log_stage("rlvr", report, seconds=12.5)
    sink.log_stage("distill_silver", report)
    sink.finish(Outcome.REGISTERED)
    (parent,) = runs(store_uri, "tags.run_id = 'night-1'")
    nested = runs(store_uri, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.run_name for run in nested} == {"rlvr", "distill_silver"}
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    assert sink.page == f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert parent.data.params == {"env": "local", "seed": "3"}
    assert parent.data.tags["dag"] == "nightly"
    assert parent.data.tags["outcome"] == "registered"
    assert parent.data.metrics["rlvr/reward"] == 0.8
    took = child(store_uri).info
    assert took.end_time - took.start_time >= 12_500


def test_a_stage_shows_configuration_curves_and_final_numbers(store_uri, report):
    started(store_uri).log_stage("rlvr", report)
    run = child(store_uri)
    assert run.data.params == {"seed": "3", "kl.target": "0.1", "tasks": '["a", "b"]'}
    history = connect(store_uri).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(i, 1 / (i + 1)) for i in range(STEPS)]
    assert run.data.metrics["kl _nats_"] == 0.25
    assert run.data.metrics["final/reward"] == 0.8
    assert run.data.metrics["final/gate_margin"] == 0.1
    assert run.data.tags["mlflow.note.content"] == "reward rose"


def test_samples_are_a_table_and_other_files_are_artifacts(store_uri, report):
    started(store_uri).log_stage("rlvr", report)
    run = child(store_uri)
    table = json.loads(artifact(run, "samples.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == [
        {"step": 0, "prompt": "When?", "reward": 0.5, "faults": None},
        {"step": 9, "prompt": "Why?", "reward": None, "faults": '["late"]'},
    ]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]
    assert artifact(run, "figures/curve.svg").read_text() == "<svg/>"
    assert artifact(run, "report.json").is_file()
    assert not artifact(run, "metrics.jsonl").exists()


def test_a_resumed_run_goes_on_and_logs_nothing_twice(store_uri, report):
    started(store_uri).log_stage("rlvr", report)
    before = child(store_uri)
    resumed = started(store_uri)
    resumed.log_stage("rlvr", report)
    resumed.finish(Outcome.REFUSED)
    assert child(store_uri).info.run_id == before.info.run_id
    (parent,) = runs(store_uri, "tags.run_id = 'night-1'")
    assert (parent.info.status, parent.data.tags["outcome"]) == ("FINISHED", "refused")


def test_a_stage_logged_half_is_logged_again_whole(store_uri, report):
    sink = started(store_uri)
    sink.log_stage("rlvr", report)
    half = child(store_uri)
    connect(store_uri).delete_tag(half.info.run_id, "report_digest")
    started(store_uri).log_stage("rlvr", report)
    whole = child(store_uri)
    assert whole.info.run_id != half.info.run_id
    assert len(connect(store_uri).get_metric_history(whole.info.run_id, "loss")) == STEPS


def test_another_run_has_stages_of_its_own(store_uri, report):
    for run_id in ("night-1", "night-2"):
        started(store_uri, run_id).log_stage("rlvr", report)
    assert len(runs(store_uri, "tags.task = 'rlvr'")) == 2


def test_a_fault_ends_the_parent_as_failed(store_uri):
    started(store_uri).finish(Outcome.FAILED)
    (parent,) = runs(store_uri)
    assert parent.info.status == "FAILED"


def test_a_folder_without_a_manifest_is_refused(store_uri, tmp_path):
    sink = started(store_uri)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(CorruptArtifact):
        sink.log_stage("rlvr", tmp_path / "unfinished")


def test_many_threads_may_use_one_sink_while_another_registers(store_uri, report, make_policy):
    sink, registry = started(store_uri), ModelRegistry(store_uri)
    policies = [make_policy(f"p{i}", (float(i),)) for i in range(4)]
    with ThreadPoolExecutor(8) as pool:
        logged = [pool.submit(sink.log_stage, f"stage{i % 4}", report) for i in range(8)]
        versions = [pool.submit(registry.register, "npc-gold", policy, {}, "card") for policy in policies]
        for future in [*logged, *versions]:
            future.result()
    assert {run.data.tags["task"] for run in runs(store_uri, "tags.task != ''")} == {f"stage{i}" for i in range(4)}
    assert len(runs(store_uri)) == 5
    assert sorted(future.result().number for future in versions) == [1, 2, 3, 4]

"""Hands what the stages measured to MLflow: one parent run a pipeline run, one nested run a stage.

It reads a stage's sealed report folder and nothing else, so a stage can be logged at any later time, for example once a
server is back, and again without being there twice. `at_ms` is when what is logged happened, in ms since 1970; the time of
the call where it is left out.
"""

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_store import connect, experiment_id, mlflow_errors
from components.shared.storage.artifacts import MANIFEST, read_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RUN_ID = "run_id"
TASK = "task"
DIGEST = "report_digest"
"""Set last on a stage's run: it says that the stage is logged whole."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
BATCH = 1000
"""The most metric points that MLflow takes at once."""
PARAMS = 100
"""The most parameters that MLflow takes at once."""
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


class MlflowSink:
    """Logs one pipeline run. Every method may be called from any thread; calls take turns.

    Raises PipelineError where MLflow cannot be reached; the same call made again later goes on from there.
    """

    def __init__(self, tracking_uri: str, experiment: str):
        self._uri = tracking_uri
        self._experiment = experiment
        self._turn = threading.Lock()
        self._connected: MlflowClient | None = None
        self._experiment_id = ""
        self._parent = ""
        self._started_ms = 0

    def start_run(
        self, run_id: str, tags: Mapping[str, str], params: Mapping[str, JsonValue], at_ms: int | None = None
    ) -> None:
        """Open the parent run of a pipeline run, or go on with the one that it has."""
        with self._turn, mlflow_errors(self._uri):
            client = self._client()
            parent = self._find(f"tags.{RUN_ID} = '{run_id}'")
            if parent is None:
                parent = client.create_run(self._experiment_id, at_ms or _now_ms(), {RUN_ID: run_id}, run_id)
            else:
                client.update_run(parent.info.run_id, status="RUNNING")
            self._parent = parent.info.run_id
            self._started_ms = parent.info.start_time
            self._describe(self._parent, tags, params)

    def log_stage(self, task: str, report_folder: Path, seconds: float | None = None, at_ms: int | None = None) -> None:
        """Log a stage's report as a nested run; a report that is there already is left as it is.

        `seconds` is how long the stage took; without it the nested run has no duration.
        """
        manifest = read_manifest(report_folder)
        ended_ms = at_ms or _now_ms()
        with self._turn, mlflow_errors(self._uri):
            client = self._client()
            child = self._find(f"tags.`{PARENT}` = '{self._parent}' and tags.{TASK} = '{task}'")
            if child and child.data.tags.get(DIGEST) == manifest.digest:
                return
            if child:
                client.delete_run(child.info.run_id)
            report = Report.model_validate_json((report_folder / "report.json").read_bytes())
            run = self._open(task, report, ended_ms - round(1000 * (seconds or 0)))
            self._describe(run, {}, _flat(manifest.metadata.get("config", {})))
            self._log_metrics(run, _curves(report_folder / METRICS, ended_ms))
            final = {**report.metrics, **report.scalars}
            self._log_metrics(
                run, _points({f"final/{name}": value for name, value in final.items()}, 0, self._started_ms)
            )
            self._log_metrics(
                self._parent, _points({f"{task}/{name}": value for name, value in final.items()}, 0, self._started_ms)
            )
            self._log_files(run, report_folder)
            client.set_tag(run, DIGEST, manifest.digest)
            client.set_terminated(run, end_time=ended_ms)

    def finish(self, outcome: Outcome, at_ms: int | None = None) -> None:
        """Close the parent run; a refused gate is a success, only a fault is a failure."""
        with self._turn, mlflow_errors(self._uri):
            client = self._client()
            client.set_tag(self._parent, "outcome", outcome)
            status = "FAILED" if outcome == Outcome.FAILED else "FINISHED"
            client.set_terminated(self._parent, status, at_ms or _now_ms())

    @property
    def page(self) -> str:
        """Where the parent run is in MLflow's UI, below the UI's address; known once the run is started."""
        return f"#/experiments/{self._experiment_id}/runs/{self._parent}"

    def _client(self) -> "MlflowClient":
        if self._connected is None:
            self._connected = connect(self._uri)
            self._experiment_id = experiment_id(self._connected, self._uri, self._experiment)
        return self._connected

    def _find(self, query: str) -> Any:
        found = self._client().search_runs([self._experiment_id], query, order_by=["start_time"], max_results=1)
        return found[0] if found else None

    def _open(self, task: str, report: Report, started_ms: int) -> str:
        tags = {PARENT: self._parent, TASK: task, NOTE: report.summary}
        return self._client().create_run(self._experiment_id, started_ms, tags, run_name=task).info.run_id

    def _describe(self, run: str, tags: Mapping[str, str], params: Mapping[str, JsonValue]) -> None:
        from mlflow.entities import Param, RunTag

        client = self._client()
        client.log_batch(run, tags=[RunTag(name, str(value)) for name, value in tags.items()])
        listed = [Param(_name(name), _text(value)) for name, value in params.items()]
        for start in range(0, len(listed), PARAMS):
            client.log_batch(run, params=listed[start : start + PARAMS])

    def _log_metrics(self, run: str, points: Iterable["Metric"]) -> None:
        listed = list(points)
        for start in range(0, len(listed), BATCH):
            self._client().log_batch(run, metrics=listed[start : start + BATCH])

    def _log_files(self, run: str, folder: Path) -> None:
        """The samples as a table, and every other file of the report as it is: report.json, cards, figures."""
        client = self._client()
        table = _table(folder / SAMPLES)
        if table["data"]:
            # The form of client.log_table, which warns about pandas on every call.
            client.log_text(run, json.dumps(table, ensure_ascii=False), "samples.json")
            client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": "samples.json", "type": "table"}]))
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder)
            if name.as_posix() not in (METRICS, SAMPLES, MANIFEST):
                client.log_artifact(run, str(path), None if name.parent == Path() else name.parent.as_posix())


def _curves(path: Path, at_ms: int) -> Iterator["Metric"]:
    """The points of metrics.jsonl: one object a line, `step` and named values."""
    for line in _lines(path):
        step = line.pop("step")
        yield from _points(line, step, at_ms)


def _points(values: Mapping[str, float], step: int, timestamp_ms: int) -> Iterator["Metric"]:
    from mlflow.entities import Metric

    for name, value in values.items():
        yield Metric(_name(name), float(value), timestamp_ms, step)


def _table(path: Path) -> dict[str, list[JsonValue]]:
    """samples.jsonl as MLflow's table; a row that lacks a column has an empty cell, nested values are JSON."""
    rows = list(_lines(path))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": [*columns], "data": [[_cell(row.get(name)) for name in columns] for row in rows]}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as f:
            yield from map(json.loads, f)


def _flat(config: JsonValue, prefix: str = "") -> dict[str, JsonValue]:
    """Nested configuration as dotted names: {"teacher": {"kind": "scripted"}} is teacher.kind."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def _name(name: str) -> str:
    """`name` with what MLflow refuses in names replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _cell(value: JsonValue) -> JsonValue:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

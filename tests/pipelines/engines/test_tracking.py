"""Tracking on the side: in order, off the caller's time, said once and never raised, and nothing lost."""

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.shared.contracts.records import Outcome, Tier
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.performance.mlflow_sink import MlflowSink
from components.shared.performance.mlflow_store import connect
from components.shared.storage.artifacts import seal
from pipelines.engines.run_folder import RunFolder, RunState
from pipelines.engines.tracking import EXPERIMENT, SPOOL, BackgroundTracking, replay, spooled


class Sink:
    """Records calls; fails or blocks where told to."""

    def __init__(self, fails_at=None, blocks=None):
        self.calls, self._fails_at, self._blocks = [], fails_at, blocks

    def _take(self, call):
        if self._blocks:
            self._blocks.wait(10)
        self.calls.append(call)
        if call == self._fails_at:
            raise ConnectionError("no\nserver")

    def start_run(self, run_id, tags, params, at_ms):
        self._take("start")

    def log_stage(self, task, report, seconds, at_ms):
        self._take(task)

    def finish(self, outcome, at_ms):
        self._take(str(outcome))


def make_run(runs, uri="sqlite:///none.db", run_id="run"):
    state = RunState(
        run_id=run_id,
        dag="nightly",
        environment="local",
        tier=Tier.BRONZE,
        tracking_uri=uri,
        started=datetime.now(UTC),
    )
    return RunFolder.create(runs, state)


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path)


def stage_report(folder, task):
    path = folder.runs / "store" / task
    path.mkdir(parents=True)
    (path / "report.json").write_text(Report(stage=task, summary="done", metrics={"reward": 0.5}).model_dump_json())
    seal(path, ArtifactKind.REPORT, {"stage": task, "config": {}, "inputs": {}})
    return path


def use(tracking, folder):
    tracking.start_run(folder.state.run_id, {}, {})
    for task in ("srl", "rlvr"):
        tracking.log_stage(task, folder.runs / "store" / task, 1.0)
    tracking.finish(Outcome.REGISTERED)


def test_calls_are_made_in_order_and_the_spool_is_gone(folder):
    tracking = BackgroundTracking(sink := Sink(), folder)
    use(tracking, folder)
    assert tracking.close(10) is None
    assert sink.calls == ["start", "srl", "rlvr", "registered"]
    assert not (folder.path / SPOOL).exists()


def test_a_failure_is_said_in_one_line_and_all_calls_are_spooled_in_order(folder):
    tracking = BackgroundTracking(sink := Sink(fails_at="srl"), folder)
    use(tracking, folder)
    assert tracking.close(10) == "no server"
    assert sink.calls == ["start", "srl"]
    calls = list(spooled(folder.path / SPOOL))
    assert [call.get("task", call["call"]) for call in calls] == ["start_run", "srl", "rlvr", "finish"]


def test_calls_return_while_the_sink_is_busy_and_closing_gives_up_in_time(folder):
    gate = threading.Event()
    tracking = BackgroundTracking(Sink(blocks=gate), folder)
    use(tracking, folder)
    assert "did not answer" in tracking.close(0.01)
    assert (folder.path / SPOOL).exists()
    gate.set()


def test_a_line_that_a_crash_cut_short_is_left_out(folder):
    (folder.path / SPOOL).write_text('{"call": "finish", "outcome": "registered", "at_ms": 1}\n{"call": "fin')
    assert len(list(spooled(folder.path / SPOOL))) == 1


def test_a_run_at_work_is_left_to_its_own_process(folder):
    (folder.path / SPOOL).write_text("")
    with folder.locked():
        assert list(replay(folder.runs)) == []


@pytest.fixture
def address(tmp_path):
    """Where a server will be, and the database that it will serve."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return f"http://127.0.0.1:{port}", tmp_path / "server" / "mlflow.db"


def serve(address):
    """A real MLflow server at the address; to be ended by its process group."""
    url, file = address
    connect(f"sqlite:///{file}")
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--workers",
        "1",
        "--port",
        url.rpartition(":")[2],
    ]
    command += ["--backend-store-uri", f"sqlite:///{file}", "--artifacts-destination", str(file.parent / "served")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=file.parent, start_new_session=True, **quiet)
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return process
        except OSError:
            assert process.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.1)


def parents(uri):
    client = connect(uri)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return {run.info.run_name: run for run in found}


@pytest.mark.slow
def test_what_a_server_missed_is_handed_over_in_order_once_it_is_up(tmp_path, address, capfd, caplog):
    """Down while one run ends; up when the next one starts: then it holds both, with the times at which they happened."""
    url, _ = address
    runs = tmp_path / "runs"
    first = make_run(runs, url, "first")
    for task in ("srl", "rlvr"):
        stage_report(first, task)
    with caplog.at_level(logging.DEBUG):
        tracking = BackgroundTracking(MlflowSink(url, EXPERIMENT), first)
        use(tracking, first)
        failure = tracking.close(60)
    assert failure and "\n" not in failure and "check that it can be reached" in failure
    assert capfd.readouterr().err == ""
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    ended = list(spooled(first.path / SPOOL))[-1]["at_ms"]
    process = serve(address)
    try:
        second = make_run(runs, url, "second")
        tracking = BackgroundTracking(MlflowSink(url, EXPERIMENT), second)
        use(tracking, second)
        assert tracking.close(60) is None
        assert not list(runs.glob(f"*/{SPOOL}"))
        found = parents(url)
        assert set(found) == {"first", "second", "srl", "rlvr"}
        assert found["first"].info.end_time == ended
        assert found["first"].data.metrics["srl/reward"] == 0.5
        assert found["first"].data.tags["outcome"] == "registered"
        assert list(replay(runs)) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_locked_database_is_waited_out_by_the_spool(tmp_path):
    file = tmp_path / "mlflow.db"
    uri = f"sqlite:///{file}?timeout=0.1"
    connect(uri)
    folder = make_run(tmp_path / "runs", uri)
    stage_report(folder, "srl")
    stage_report(folder, "rlvr")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    tracking = BackgroundTracking(MlflowSink(uri, EXPERIMENT), folder)
    use(tracking, folder)
    assert "locked" in tracking.close(60)
    holder.execute("ROLLBACK")
    (done,) = replay(folder.runs)
    assert (done.run_id, done.calls, done.failure) == ("run", 4, None)
    assert parents(uri)["run"].info.status == "FINISHED"


@pytest.mark.slow
def test_a_report_that_is_gone_is_named_and_the_rest_is_handed_over(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = make_run(tmp_path / "runs", uri)
    stage_report(folder, "rlvr")
    tracking = BackgroundTracking(Sink(fails_at="start"), folder)
    use(tracking, folder)
    tracking.close(10)
    (done,) = replay(folder.runs)
    assert (done.calls, done.failure) == (3, "the reports of srl are no longer there")
    assert not (folder.path / SPOOL).exists()

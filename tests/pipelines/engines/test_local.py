"""The local engine on toy stages that really run: cache, gate, failure, kill, interrupt."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toys import compiled, run_toys, toy_engine, toy_folder

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Outcome
from components.shared.storage.artifacts import verify
from pipelines.engines.run_folder import RunFolder

WHOLE = os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole"


def statuses(folder):
    return [str(task.status) for task in folder.state.tasks.values()]


def enrolled(runs):
    registry = runs / "registry.txt"
    return registry.read_text().splitlines() if registry.exists() else []


def digests(folder):
    return {
        f"{name}.{output}": verify(folder.runs / path).digest
        for name, task in folder.state.tasks.items()
        for output, path in task.outputs.items()
    }


def test_a_run_ends_registered_and_the_same_again_is_all_cached(tmp_path):
    first = run_toys(tmp_path, "first")
    assert (first.state.outcome, statuses(first)) == (Outcome.REGISTERED, ["done"] * 3)
    second = run_toys(tmp_path, "second")
    assert (second.state.outcome, statuses(second)) == (Outcome.REGISTERED, ["cached"] * 3)
    assert digests(second) == digests(first)
    assert len(enrolled(tmp_path)) == 1
    assert all(task.cpu_seconds > 0 and task.peak_mib > 1 for task in second.state.tasks.values())


def test_the_runs_folder_holds_state_logs_and_artifacts(tmp_path):
    folder = run_toys(tmp_path, "one")
    assert RunFolder.open(tmp_path, "one").state == folder.state
    assert folder.log("grow").is_file()
    assert (folder.artifact("judge", "policy") / "policy.txt").read_text()
    assert not (folder.path / "kfp").exists()


def test_only_what_a_change_concerns_runs_again_and_the_miss_names_it(tmp_path):
    run_toys(tmp_path, "first")
    second = run_toys(tmp_path, "second", ["judge.bar=1"])
    assert statuses(second) == ["cached", "done", "done"]
    assert second.state.tasks["judge"].miss == "config.bar 2.0 -> 1.0"
    assert second.state.tasks["enroll_toy"].miss.startswith("input.evidence ")


def test_a_shut_gate_is_a_success_that_registers_nothing(tmp_path):
    folder = run_toys(tmp_path, "one", ["judge.bar=9"])
    assert (folder.state.outcome, statuses(folder)) == (Outcome.REFUSED, ["done", "done", "skipped"])
    assert enrolled(tmp_path) == []


def test_a_failed_stage_says_why_and_what_was_done_before_is_kept(tmp_path):
    run_toys(tmp_path, "before")
    folder = run_toys(tmp_path, "one", ["grow.fail=true"])
    assert (folder.state.outcome, statuses(folder)) == (Outcome.FAILED, ["failed", "pending", "pending"])
    assert folder.state.tasks["grow"].error == "grow.fail is True: set it to false"
    assert "about to go wrong" in folder.log("grow").read_text()
    assert statuses(run_toys(tmp_path, "after")) == ["cached"] * 3


def test_a_corrupted_entry_is_said_and_made_again(tmp_path):
    first = run_toys(tmp_path, "first")
    wanted = digests(first)
    (first.artifact("judge", "policy") / "policy.txt").write_text("tampered")
    second = run_toys(tmp_path, "second")
    assert statuses(second) == ["cached", "done", "cached"]
    assert second.state.tasks["judge"].miss.startswith("corrupted: ")
    assert digests(second) == wanted


def test_registration_runs_again_where_its_effect_is_gone(tmp_path):
    run_toys(tmp_path, "first")
    (tmp_path / "registry.txt").unlink()
    assert statuses(run_toys(tmp_path, "second")) == ["cached", "cached", "done"]
    assert len(enrolled(tmp_path)) == 1


def test_every_finished_stage_is_reported_cached_or_not(tmp_path):
    for run_id in ("first", "second"):
        reported = []
        toy_engine(tmp_path, reported).run(compiled(), {}, toy_folder(tmp_path, run_id))
        assert [task for task, _ in reported] == ["grow", "judge", "enroll_toy"]
        assert all((report / "report.json").is_file() for _, report in reported)


def test_two_processes_cannot_hold_one_run(tmp_path):
    folder = toy_folder(tmp_path, "one")
    with folder.locked(), pytest.raises(UsageError, match="at work in another process"):
        run_toys(tmp_path, "one")


def test_a_run_id_is_used_once(tmp_path):
    state = toy_folder(tmp_path, "one").state
    with pytest.raises(UsageError, match="--resume"):
        RunFolder.create(tmp_path, state)
    with pytest.raises(UsageError, match="unknown run 'on': did you mean 'one'"):
        RunFolder.open(tmp_path, "on")


def killed(runs: Path, trouble: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "toys", str(runs), "one"]
    return subprocess.run(command, env={**os.environ, "TOY_TROUBLE": trouble}, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "orphan"])
@pytest.mark.parametrize("stage", ["grow", "judge", "enroll"] if WHOLE else ["judge"])
def test_a_run_killed_with_9_is_finished_by_the_next(tmp_path, stage, how):
    """`kill` takes the stage with it, `orphan` leaves it at work: its outputs are then found, and nothing is done twice."""
    wanted = digests(run_toys(tmp_path / "undisturbed", "one"))
    runs = tmp_path / "runs"
    assert killed(runs, f"{stage}:{how}").returncode == -9
    assert RunFolder.open(runs, "one").status == "interrupted"
    folder = run_toys(runs, "one")
    assert folder.state.outcome == Outcome.REGISTERED
    assert digests(folder) == wanted
    assert len(enrolled(runs)) == 1
    place = ["grow", "judge", "enroll"].index(stage)
    assert statuses(folder)[:place] == ["cached"] * place
    assert statuses(folder)[place] == ("done" if how == "kill" else "cached")


@pytest.mark.slow
def test_ctrl_c_stops_the_stage_in_one_line_and_keeps_what_was_finished(tmp_path):
    stopped = killed(tmp_path, "judge:interrupt")
    assert stopped.returncode == 130
    assert stopped.stderr.splitlines() == ["error: interrupted: what was finished is kept"]
    folder = RunFolder.open(tmp_path, "one")
    assert (folder.status, statuses(folder)) == ("interrupted", ["done", "stopped", "pending"])
    assert statuses(run_toys(tmp_path, "one")) == ["cached", "done", "done"]


def test_the_engine_itself_takes_less_than_a_second_a_stage(tmp_path):
    folder = run_toys(tmp_path, "one")
    assert max(task.overhead_seconds for task in folder.state.tasks.values()) < 1.0

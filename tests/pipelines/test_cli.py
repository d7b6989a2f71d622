"""The command: exit codes, one line for each fault, and how fast it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toys import run_toys

from pipelines.cli import guarded


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["rnu"], "unknown command 'rnu': did you mean 'run'?"),
        (["run", "nigtly"], "unknown DAG 'nigtly': did you mean 'nightly'?"),
        (["run", "--env", "lcoal"], "unknown environment 'lcoal': did you mean 'local'?"),
        (["run", "--set", "slr.steps=1"], "unknown stage of nightly 'slr': did you mean 'srl'?"),
        (["run", "--set", "srl.stebs=1"], "unknown key of srl 'stebs': did you mean 'steps'?"),
        (["run", "--set", "srl.steps"], "--set 'srl.steps' is not KEY=VALUE: write for example --set srl.steps=100"),
        (["run", "--set", "sede=1"], "unknown parameter of nightly 'sede': did you mean 'seed'?"),
        (["run", "--set", "seed=-1"], "parameter.seed = -1: "),
        (["run", "--set", "model_type=npc_dialog"], "unknown model type 'npc_dialog': did you mean 'npc_dialogue'?"),
        (["run", "--engine", "dockr"], "unknown engine 'dockr': did you mean 'docker'?"),
        (["run", "--run-id", "a/b"], "run id 'a/b': use letters, digits, dots, dashes and underscores"),
        (["run", "--tier", "gold"], "--tier gold: nightly goes through all three tiers: leave --tier out"),
        (["run", "post_training", "--tier", "glod"], "unknown tier 'glod': did you mean 'gold'?"),
        (["run", "--resume", "x"], "unknown run 'x': known: none"),
        (
            ["run", "--resume", "x", "--set", "seed=1"],
            "--resume goes on with the run as it was started: leave out --set",
        ),
        (["status", "x"], "unknown run 'x': known: none"),
        (["run", "--sett", "a=1"], "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(srl_rlvr, tmp_path, arguments, answer):
    code, out, err = srl_rlvr(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {answer}") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_is_listed_and_shown_and_its_logs_are_printed(srl_rlvr, tmp_path):
    run_toys(tmp_path / "runs", "kept", ["judge.bar=9"])
    run_toys(tmp_path / "runs", "broken", ["grow.fail=true"])
    code, out, _ = srl_rlvr("runs", "--json")
    assert code == 0
    assert [(run["run_id"], run["outcome"]) for run in json.loads(out)] == [("broken", "failed"), ("kept", "refused")]
    code, out, _ = srl_rlvr("status", "kept", "--json")
    assert json.loads(out)["status"] == "refused"
    assert json.loads(out)["tasks"]["enroll_toy"]["status"] == "skipped"
    _, out, _ = srl_rlvr("status", "broken")
    assert "failed: grow: grow.fail is True: set it to false" in out
    assert "srl-rlvr logs broken grow" in out and "srl-rlvr run --resume broken" in out
    _, out, _ = srl_rlvr("logs", "broken", "grow")
    assert "about to go wrong" in out
    code, _, err = srl_rlvr("logs", "broken", "gorw")
    assert (code, err) == (2, "error: unknown stage of toys 'gorw': did you mean 'grow'?\n")


def test_a_run_has_a_page_and_two_runs_are_compared(srl_rlvr, tmp_path):
    run_toys(tmp_path / "runs", "first", ["judge.bar=9"])
    run_toys(tmp_path / "runs", "second", ["judge.bar=8"])
    code, out, _ = srl_rlvr("report", "first", "--out", str(tmp_path / "page.html"))
    assert code == 0 and Path(out.strip()) == tmp_path / "page.html"
    assert "first" in (tmp_path / "page.html").read_text()
    _, out, _ = srl_rlvr("compare", "first", "second", "--json")
    assert json.loads(out)["parts_at"] == "judge"
    _, out, _ = srl_rlvr("compare", "first", "second")
    assert "They part at judge" in out
    assert srl_rlvr("report", "frist")[2] == "error: unknown run 'frist': did you mean 'first'?\n"


def test_compile_writes_a_file_a_dag(srl_rlvr, tmp_path):
    code, _, _ = srl_rlvr("compile", "--out", str(tmp_path / "out"))
    assert code == 0
    written = sorted(path.name for path in (tmp_path / "out").glob("*.yaml"))
    assert written == ["distillation-bronze.yaml", "nightly.yaml", "post_training-bronze.yaml"]
    code, _, _ = srl_rlvr("compile", "post_training", "--tier", "gold", "--out", str(tmp_path / "out"))
    assert code == 0 and (tmp_path / "out" / "post_training-gold.yaml").is_file()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "toys", str(tmp_path / "file" / "runs"), "one"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("error: Not a directory: ") and found.stderr.count("\n") == 1


def test_no_room_on_the_device_is_one_line(capsys):
    def full():
        with Path("/dev/full").open("w") as device:
            device.write("x" * 100_000)

    assert guarded(full) == 1
    assert capsys.readouterr().err.startswith("error: No space left on device")


def test_help_answers_at_once_and_imports_nothing_heavy():
    program = (
        "import sys, time; from pipelines.cli import cli, guarded\n"
        "guarded(lambda: cli.main(args=['--help'], standalone_mode=False))\n"
        "print([m for m in ('kfp', 'pydantic', 'rich', 'torch', 'mlflow') if m in sys.modules], time.process_time())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *_, last = found.stdout.splitlines()
    modules, _, seconds = last.rpartition(" ")
    assert modules == "[]"
    assert float(seconds) < 0.3

"""`srl-rlvr stop`: the process that is at work on a run is told, and only that."""

import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from toys import toy_folder

from components.shared.contracts.errors import UsageError
from pipelines.cli import cli

HOLD = """
import signal, sys
from pathlib import Path
from pipelines.engines.run_folder import RunFolder
with RunFolder.open(Path(sys.argv[1]), "one").locked():
    print("held", flush=True)
    signal.pause()
"""


def stop(*arguments):
    return CliRunner().invoke(cli, ["stop", *arguments])


def test_the_process_at_work_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path))
    folder = toy_folder(tmp_path, "one")
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    assert (folder.holder, folder.status) == (process.pid, "running")
    assert stop("one").exit_code == 0
    assert process.wait(30) == -signal.SIGTERM
    assert (folder.holder, folder.status) == (None, "interrupted")


@pytest.mark.parametrize(
    ("run_id", "said"), [("one", "is not at work: it is interrupted"), ("oen", "did you mean 'one'?")]
)
def test_what_is_not_at_work_cannot_be_stopped(tmp_path, monkeypatch, run_id, said):
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path))
    toy_folder(tmp_path, "one")
    result = stop(run_id)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)

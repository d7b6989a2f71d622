"""Puts the toy stages where this process and the stages' processes find them; the command as it is typed."""

import os
import sys
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parent / "toy_stages")
if TOYS not in sys.path:
    sys.path.insert(0, TOYS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TOYS, os.environ.get("PYTHONPATH")]))


@pytest.fixture
def srl_rlvr(tmp_path, monkeypatch, capsys):
    """Run the command in this process; gives exit code, output and errors."""
    from pipelines.cli import cli, guarded

    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path / "runs"))

    def run(*arguments):
        code = guarded(lambda: cli.main(args=list(arguments), prog_name="srl-rlvr", standalone_mode=False))
        out, err = capsys.readouterr()
        return code, out, err

    return run

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.catalogue import spec_of
from components.entrypoints.execution import load
from components.entrypoints.main import main

SMALL = "counts: {train: 40, validation: 5, test: 5, practice: 0}\n"


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yaml").write_text(SMALL)
    argv = [
        "--config",
        f"{folder}/config.yaml",
        "--output",
        f"trajectories={folder}/t",
        "--output",
        f"report={folder}/r",
    ]
    assert main(["trajectory_generation", *argv]) == 0
    return folder / "t"


def verification(source: Path, target: Path) -> list[str]:
    places = [
        ("input", "trajectories", source),
        ("output", "verified", target / "v"),
        ("output", "report", target / "r"),
    ]
    return ["verification", *(word for kind, name, path in places for word in (f"--{kind}", f"{name}={path}"))]


def test_the_same_stage_gives_the_same_bytes_however_it_is_started(trajectories: Path, tmp_path: Path):
    """The command line in this process, and KFP's executor input in another."""
    assert main(verification(trajectories, tmp_path / "a")) == 0
    artifact = lambda uri: {"artifacts": [{"name": "x", "uri": str(uri), "type": {"schemaTitle": "y"}}]}  # noqa: E731
    output_file = tmp_path / "b" / "executor_output.json"
    executor_input = {
        "inputs": {
            "parameterValues": {"threshold": 0.7, "config": '{"seed": 0}'},
            "artifacts": {"trajectories": artifact(trajectories)},
        },
        "outputs": {
            "artifacts": {"verified": artifact(tmp_path / "b" / "v"), "report": artifact(tmp_path / "b" / "r")},
            "outputFile": str(output_file),
        },
    }
    subprocess.run(
        [sys.executable, "-m", "components", "verification", "--executor_input", json.dumps(executor_input)], check=True
    )
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert set(json.loads(output_file.read_text())["artifacts"]) == {"verified", "report"}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["evaluaton"], 2, "unknown stage 'evaluaton': did you mean 'evaluation'?"),
        (["verification"], 2, "no input 'trajectories' given"),
        (["verification", "--input", "trajectory=x"], 2, "unknown input 'trajectory': did you mean 'trajectories'?"),
        (["verification", "--input", "trajectories"], 2, "not NAME=PATH"),
        (["verification", "--input", "trajectories=a", "--input", "trajectories=b"], 2, "given twice"),
        (["verification", "--frobnicate"], 2, "frobnicate"),
        (["verification", "--config", "/nowhere.yaml"], 2, "no file /nowhere.yaml"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(argv, code, said, capsys):
    assert main(argv) == code
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threshhold: 0.5", "unknown key of verification 'threshhold': did you mean 'threshold'?"),
        ("threshold: 1.5", "verification.threshold = 1.5"),
        ("threshold: [", ":2:1:"),
        ("- 1", "a list, not a mapping"),
    ],
)
def test_a_wrong_configuration_names_the_key_its_value_and_the_place(text, said, trajectories, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(text + "\n")
    assert main([*verification(trajectories, tmp_path), "--config", str(config)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_a_corrupted_input_stops_the_stage_before_it_writes(trajectories: Path, tmp_path: Path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in trajectories.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "trajectories.jsonl").write_text("{}\n")
    assert main(verification(broken, tmp_path)) == 1
    assert "does not match its manifest" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"broken"}


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/proc").is_dir(), reason="needs /proc as a place nobody can write to"
)
def test_a_place_that_cannot_be_written_to_is_one_line(trajectories: Path, capsys):
    assert main(verification(trajectories, Path("/proc/nowhere"))) == 1
    assert "/proc/nowhere" in capsys.readouterr().err


def test_the_collector_passes_over_what_a_stage_has_loaded_and_works_on():
    gc.unfreeze()
    load(spec_of("registration"))
    assert gc.get_freeze_count() > 0 and gc.isenabled()

import json
import random
from pathlib import Path

import pytest

from benchmarks.data_validation.corpus import NATURAL, write_verified
from components.data_validation.sharded import main
from components.data_validation.spec import SPEC
from components.entrypoints.execution import Request, execute
from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.contracts.records import Split
from components.shared.storage.artifacts import read_manifest, seal, verify
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import Dataset

SHARDS = 4


@pytest.fixture(scope="module", params=["formal", pytest.param("natural", marks=pytest.mark.slow)])
def night(request, tmp_path_factory):
    """An artifact in one file, the same in four, and the stage's outputs from the first."""
    folder = tmp_path_factory.mktemp(request.param)
    whole, split = folder / "whole", folder / "split"
    write_verified(whole, scenarios=60, count=160, planted=0.4, seed=3)
    lines = (whole / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    config = dict(NATURAL)
    if request.param == "formal":
        config["formal"] = ["npc_dialogue"]
        lines = formal_lines(whole)
        (whole / "trajectories.jsonl").write_bytes(b"".join(lines))
        reseal(whole)
    split.mkdir()
    for name in ("scenarios.jsonl", "quarantine.jsonl"):
        (split / name).write_bytes((whole / name).read_bytes())
    random.Random(0).shuffle(lines)
    for shard in range(SHARDS):
        (split / f"trajectories-{shard:05d}.jsonl").write_bytes(b"".join(lines[shard::SHARDS]))
    seal(split, read_manifest(whole).kind, read_manifest(whole).metadata)
    outputs = {"dataset": folder / "dataset", "report": folder / "report"}
    execute(Request(spec=SPEC, config=config, inputs={"verified": whole}, outputs=outputs))
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def formal_lines(whole: Path) -> list[bytes]:
    """The scripted teacher's answers, three to a scenario, some alike and some not passed; writes the scenarios."""
    trainer = create_trainer("npc_dialogue", "wrackmere")
    drawn = generate_scenarios(trainer, {Split.TRAIN: 60, Split.VALIDATION: 5, Split.TEST: 20}, 1)
    (whole / "scenarios.jsonl").write_text(
        "".join(scenario.model_dump_json() + "\n" for split in drawn for scenario in drawn[split])
    )
    rng = random.Random(1)
    lines = []
    for scenario in (*drawn[Split.TRAIN], *drawn[Split.VALIDATION]):
        for _ in range(3):
            steps = trainer.demonstrate(scenario, rng, trainer.teacher)
            trajectory = trainer.trajectory(scenario, steps, teacher="t", context=(), attempt=1)
            verdict = trainer.verify(scenario, steps)
            lines.append(trajectory.model_copy(update={"verdict": verdict}).model_dump_json().encode() + b"\n")
    return lines


def reseal(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    seal(folder, manifest.kind, manifest.metadata)


def inbox(night: Path, shard: int) -> Path:
    """What ShardedByS3Key would give this instance."""
    folder = night / f"inbox-{shard}"
    folder.mkdir(exist_ok=True)
    name = f"trajectories-{shard:05d}.jsonl"
    (folder / name).write_bytes((night / "split" / name).read_bytes())
    return folder


def examine(night: Path, shard: int, examined: Path) -> int:
    common = ["--config", str(night / "config.yaml"), "--verified", str(night / "split")]
    files = ["--trajectories", str(inbox(night, shard)), "--output", str(examined), "--shard", str(shard)]
    return main(["examine", *common, *files])


def decide(night: Path, examined: Path, into: Path) -> int:
    common = ["--config", str(night / "config.yaml"), "--verified", str(night / "split")]
    return main(
        ["decide", *common, "--examined", str(examined), "--dataset", str(into / "d"), "--report", str(into / "r")]
    )


def test_four_shards_give_the_same_bytes_as_one(night, tmp_path):
    for shard in (2, 0, 3, 1):
        assert examine(night, shard, tmp_path / "examined") == 0
    assert decide(night, tmp_path / "examined", tmp_path) == 0
    assert verify(tmp_path / "d").files == verify(night / "dataset").files
    for name in ("report.html", "validation.json", "samples.jsonl", "report.json"):
        assert (tmp_path / "r" / name).read_bytes() == (night / "report" / name).read_bytes()
    counts = json.loads((tmp_path / "r" / "validation.json").read_text())
    assert counts["rules"] and counts["trajectories"]["kept"] > 20
    assert Dataset.open(tmp_path / "d").completions


def test_a_missing_shard_is_refused(night, tmp_path, capsys):
    for shard in range(SHARDS - 1):
        assert examine(night, shard, tmp_path / "examined") == 0
    assert decide(night, tmp_path / "examined", tmp_path) == 1
    assert "examine each file once" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_shard_of_another_configuration_is_refused(night, tmp_path, capsys):
    for shard in range(SHARDS):
        assert examine(night, shard, tmp_path / "examined") == 0
    config = json.loads((night / "config.yaml").read_text())
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps({**config, "max_tokens": 2047}))
    arguments = ["--verified", str(night / "split"), "--examined", str(tmp_path / "examined")]
    outputs = ["--dataset", str(tmp_path / "d"), "--report", str(tmp_path / "r")]
    assert main(["decide", "--config", str(other), *arguments, *outputs]) == 1
    assert "another configuration" in capsys.readouterr().err


def test_a_changed_file_is_refused(night, tmp_path, capsys):
    folder = inbox(night, 0)
    path = folder / "trajectories-00000.jsonl"
    path.write_bytes(path.read_bytes()[:-2] + b"}\n\n")
    arguments = [
        "--verified",
        str(night / "split"),
        "--trajectories",
        str(folder),
        "--output",
        str(tmp_path / "examined"),
    ]
    assert main(["examine", "--config", str(night / "config.yaml"), *arguments, "--shard", "0"]) == 1
    assert "does not match the artifact's manifest" in capsys.readouterr().err

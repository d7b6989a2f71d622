"""The weekly refresh: measurements and a real registry in, a proposal out, accepted, routed by, and taken back."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from moto import mock_aws

from components.shared.contracts.errors import CorruptArtifact, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Measured, SelectionTable
from components.shared.performance.model_registry import model_name, open_registry
from components.shared.selection.__main__ import main
from components.shared.selection.refresh import add_measured, put_table, read_measured, read_table, refresh
from components.shared.selection.selection_history import SelectionHistory
from components.shared.serving.selection_file import Selection
from components.shared.storage.places import names

NAME = model_name("npc_dialogue", Tier.GOLD)


def scores(quality):
    return {
        "score.student_greedy": str(quality),
        "score.student_greedy_low": str(quality - 0.02),
        "score.scenarios": "500",
    }


@pytest.fixture
def two(store_uri, make_policy, measured, tmp_path):
    """Two registered policies of a tier, the second surely better, and where their measurements lie."""
    registry = open_registry(store_uri)
    digests = [
        registry.register(NAME, make_policy(f"p{quality}", (quality,)), scores(quality), "card").policy_digest
        for quality in (0.7, 0.8)
    ]
    files = []
    for i, digest in enumerate(digests):
        files.append(tmp_path / f"measured{i}.jsonl")
        found = measured().model_copy(update={"policy": digest})
        files[-1].write_text(found.model_dump_json() + "\n")
    return digests, [str(file) for file in files]


def test_a_better_policy_is_proposed_accepted_routed_by_and_taken_back(two, store_uri, prices, tmp_path):
    digests, files = two
    history = SelectionHistory.beside(tmp_path / "router" / "selection.json")
    first = refresh(store_uri, read_measured(files[:1]), None, prices)
    history.propose(first)
    history.accept(first.version, "ada")
    routed = Selection(tmp_path / "router" / "selection.json")
    assert routed.benchmarks("npc_dialogue")[Tier.GOLD].policy == digests[0]
    second = refresh(store_uri, read_measured(files), history.current(), prices)
    assert second.reasons[0].startswith("npc_dialogue gold: surely better: ")
    history.propose(second)
    routed.refresh()
    assert routed.benchmarks("npc_dialogue")[Tier.GOLD].policy == digests[0], "nothing routes by a proposal"
    history.accept(second.version, "ada")
    assert routed.refresh()
    assert routed.benchmarks("npc_dialogue")[Tier.GOLD].policy == digests[1]
    history.revert("grace")
    assert routed.refresh()
    assert routed.benchmarks("npc_dialogue")[Tier.GOLD].policy == digests[0]
    assert {table.version for table in history.tables()} == {first.version, second.version}


def test_the_last_measurement_of_a_policy_counts_and_broken_ones_are_named(measured, tmp_path):
    file = tmp_path / "measured.jsonl"
    lines = [measured(token_ms=ms).model_dump_json() for ms in (9.0, 5.0)]
    file.write_text("\n".join(lines) + "\n")
    (found,) = read_measured([str(file)])
    assert found.token_ms == 5.0
    file.write_text(lines[0] + "\n{}\n")
    with pytest.raises(CorruptArtifact, match=r"measured\.jsonl:2: model_type: Field required: measure it again"):
        read_measured([str(file)])
    file.write_text("")
    with pytest.raises(UsageError, match="holds no measurement"):
        read_measured([str(file)])


@pytest.mark.parametrize("on_s3", [False, True])
def test_measurements_are_added_whole_and_none_is_lost_to_another(measured, tmp_path, monkeypatch, on_s3):
    """Two that measure at once, one of them the policy that was measured before."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = "s3://bucket/srl-rlvr/serving/measured" if on_s3 else str(tmp_path / "measured")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        add_measured(measured(token_ms=9.0), folder)
        rows = [measured(policy="a", token_ms=5.0), measured(policy="b")]
        with ThreadPoolExecutor(2) as both:
            # boto3 makes its clients in one thread at a time only.
            places = list((map if on_s3 else both.map)(add_measured, rows, [folder] * 2))
        assert len(set(places)) == 2 and len(names(folder)) == 3
        found = {each.policy[0]: each.token_ms for each in read_measured([folder])}
        assert found == {"a": 5.0, "b": 10.0}


def test_a_measurement_whose_writer_was_killed_is_not_half_there(measured, tmp_path, monkeypatch):
    """Killed in the middle of its line: what was there still reads, and the next one is added."""
    add_measured(measured(), str(tmp_path))
    code = (
        "import os, signal, sys\n"
        "from components.shared.contracts.selection import Measured\n"
        "from components.shared.selection.refresh import add_measured\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "add_measured(Measured.model_validate_json(sys.argv[1]), sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, measured(policy="b").model_dump_json(), tmp_path], check=False, capture_output=True
    )
    assert done.returncode == -9, done.stderr
    assert len(names(str(tmp_path))) == 2, "what it left of the second"
    assert [each.policy[0] for each in read_measured([str(tmp_path)])] == ["a"]
    add_measured(measured(policy="c"), str(tmp_path))
    assert [each.policy[0] for each in read_measured([str(tmp_path)])] == ["a", "c"]


def test_a_file_in_the_folders_place_is_refused(measured, tmp_path):
    (tmp_path / "measured.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"measured\.jsonl is a file: measurements are added to a folder"):
        add_measured(measured(), str(tmp_path / "measured.jsonl"))


def test_the_containers_command_reads_and_writes_s3(two, store_uri, monkeypatch, capsys, measured, tmp_path):
    digests, _ = two
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    rows = [measured(instance="ml.g6.12xlarge").model_copy(update={"policy": d}) for d in digests]
    folder = "s3://bucket/srl-rlvr/selection"
    kept = "s3://bucket/srl-rlvr/serving/measured"
    given = ["--registry", store_uri, "--measured", kept, "--tables", folder]
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        assert main(given) == 1
        assert f"error: {kept}: " in capsys.readouterr().err
        add_measured(rows[0], kept)
        assert main(given) == 0
        place = capsys.readouterr().out.split("proposed: ")[1].strip()
        put_table(read_table(place).model_copy(update={"accepted_by": "ada"}), folder, in_effect=True)
        add_measured(rows[1], kept)
        assert main(given) == 0
        assert "surely better" in capsys.readouterr().out


def test_the_commands_propose_accept_and_undo(two, store_uri, tmp_path, monkeypatch):
    """The whole command, in processes of its own."""
    _, files = two
    for file in files:
        row = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(row | {"instance": "ml.g6.12xlarge"}) + "\n")
    router = tmp_path / "router.yaml"
    router.write_text(
        "tiers: {gold: {kind: in_process, base: models/local/gold, model: gold}}\n"
        f"selection: {tmp_path}/router/selection.json\n"
    )
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "mlflow").rename(runs / "mlflow")
    monkeypatch.setenv("SRL_RLVR_RUNS", str(runs))
    monkeypatch.setenv("SRL_RLVR_APPROVER", "ada")

    def run(*arguments):
        code = "from pipelines.cli import main; main()"
        command = [sys.executable, "-c", code, "select", *arguments, "--router", str(router)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    add_measured(Measured.model_validate_json((tmp_path / files[0]).read_text()), str(runs / "serving" / "measured"))
    first = run("--json")
    run("--accept", first["version"], "--json")
    second = run("--measured", files[0], "--measured", files[1], "--json")
    assert second["standing"] == f"proposed: srl-rlvr select --accept {second['version']}"
    assert run("--accept", second["version"], "--json")["accepted_by"] == "ada"
    assert run("--undo", "--json")["version"] == first["version"]
    current = SelectionTable.model_validate_json((tmp_path / "router" / "selection.json").read_bytes())
    assert current.version == first["version"]

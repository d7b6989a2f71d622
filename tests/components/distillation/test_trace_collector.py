"""From what a router served to what a student learns, with real parts; and what becomes of a trace that is no good."""

import asyncio
import io
import json
import random

import aiohttp
import boto3
import pyarrow.parquet as pq
import pytest
import uvicorn
from click.testing import CliRunner
from moto import mock_aws

from components.data_validation.run import run as validate_data
from components.data_validation.spec import DataValidationConfig
from components.distillation.distillation_pipeline import answers_to
from components.distillation.trace_collector import Collection, collect
from components.shared.contracts.errors import GateError, PipelineError, UsageError
from components.shared.contracts.records import Rejected, Scenario, Split, Tier, Trace, Trajectory
from components.shared.contracts.selection import Benchmark, SelectionTable
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.complexity import calibrate
from components.shared.serving.router_config import RouterConfig, build_backends
from components.shared.serving.serve import build_app
from components.shared.serving.traces import TraceWriter
from components.shared.storage.artifacts import seal, verify
from components.shared.storage.paths import configs_root
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import Dataset
from pipelines.cli import cli

KEY, NIGHT = "k" * 20, "2026-01-06"
MAIL = "bell@tower.example"
FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)
HELD_OUT = {Split.VALIDATION: 8, Split.TEST: 24}


@pytest.fixture(scope="module")
def trainer():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture(scope="module")
def scenarios(trainer):
    return list(trainer.scenarios(random.Random(5), 40, [Split.TRAIN]))


def wanted(**changes):
    return Collection(
        **({"model_type": "npc_dialogue", "night": NIGHT, "min_scenarios": 3, "held_out": HELD_OUT} | changes)
    )


def rows(folder, name):
    return [
        json.loads(text) for text in pq.read_table(folder / f"{name}.parquet", columns=["record"])["record"].to_pylist()
    ]


def served(trainer, scenario, habits=FLAWLESS, seed=0):
    return trainer.completion(trainer.demonstrate(scenario, random.Random(seed), habits))


@pytest.fixture
def write(tmp_path):
    """A router's trace folder; `put` writes one trace into it."""
    writer = TraceWriter(tmp_path / "traces")

    def put(scenario, completion, tier=Tier.BRONZE, model_type="npc_dialogue", **changes):
        facts = {"prompt": scenario.prompt if scenario else "hello", "latency_ms": 1.0, "policy": "p1", **changes}
        return writer.write(scenario=scenario, completion=completion, tier=tier, model_type=model_type, **facts)

    put.folder = tmp_path / "traces"
    return put


def by_rule(found):
    return {rule: count for rule, count in found.quarantined.items() if count}


# ---- the whole way ---------------------------------------------------------------------------------------------------


async def ask_router(config, prompts):
    """A real router over a real policy, asked over a socket."""
    app = build_app(config, build_backends(config), io.StringIO())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
            for prompt, scenario in prompts:
                body = {
                    "model": "npc_dialogue@bronze",
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": 40,
                }
                body |= {"scenario": scenario.model_dump(mode="json")} if scenario else {}
                async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
                    assert response.status == 200, await response.text()
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
def router(tmp_path, monkeypatch):
    monkeypatch.setenv("SRL_RLVR_ROUTER_KEY", KEY)
    bronze = Benchmark(
        model_type="npc_dialogue",
        tier=Tier.BRONZE,
        trainer="npc_dialogue",
        base_model="bronze",
        policy="0" * 64,
        quality=0.8,
        quality_low=0.7,
        samples=100,
        quality_by_complexity=(0.8, 0.8),
        usd_per_million_input_tokens=1.0,
        usd_per_million_output_tokens=3.0,
        first_token_ms=20.0,
        token_ms=2.0,
        completion_tokens=30.0,
    )
    texts = [f"say the bell {i}" for i in range(20)] + [f"why if not {i} unless must explain {i}?" for i in range(20)]
    calibration = calibrate("npc_dialogue", texts, [False] * 20 + [True] * 20)
    table = SelectionTable(benchmarks=(bronze,), calibrations=(calibration,), accepted_by="gate")
    (tmp_path / "selection.json").write_text(table.model_dump_json())
    return RouterConfig.model_validate(
        {
            "tiers": {"bronze": {"kind": "in_process", "base": "models/local/bronze", "model": "bronze"}},
            "selection": tmp_path / "selection.json",
            "state": tmp_path / "state",
            "layers": None,
            "world": "wrackmere",
        }
    )


@pytest.mark.slow
def test_what_a_router_served_is_collected_validated_and_distilled(router, scenarios, trainer, tmp_path):
    asked = [*((s.prompt, s) for s in scenarios), (f"my mail is {MAIL}", None), (scenarios[0].prompt, scenarios[0])]
    odd = scenarios[1].model_copy(update={"prompt": f"{scenarios[1].prompt} {MAIL}"})
    [held] = trainer.scenarios(random.Random(6), 1, [Split.TEST])
    asyncio.run(ask_router(router, [*asked, (odd.prompt, odd), (held.prompt, held)]))

    found = collect([str(tmp_path / "state" / "traces")], str(tmp_path / "out"), str(tmp_path / "nights"), wanted())
    folder = tmp_path / "out" / "npc_dialogue" / f"night={NIGHT}"
    verify(folder, ArtifactKind.TRAJECTORIES)
    assert found.read == len(scenarios) + 4 == found.kept + sum(found.quarantined.values())
    assert found.quarantined["scenario"] == 2 and found.quarantined["contamination"] == 1
    assert found.quarantined["duplicate"] == 1, "greedy answers to one scenario are one answer"
    assert found.kept >= 3 and found.disagreements == 0

    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl") if path.is_file())
    assert MAIL.encode() not in everything
    assert MAIL not in json.dumps([rows(folder, name) for name in ("trajectories", "scenarios", "quarantine")])

    outputs = {name: tmp_path / "validated" / name for name in ("dataset", "report")}
    for path in outputs.values():
        path.mkdir(parents=True)
    report = validate_data(DataValidationConfig(min_train=3, min_test=20), {"verified": folder}, outputs)
    assert report.details["trajectories"]["read"] == found.kept
    seal(outputs["dataset"], ArtifactKind.DATASET, report.artifacts["dataset"])
    dataset = Dataset.open(outputs["dataset"])
    answers = dataset.served()
    train = list(dataset.scenarios(Split.TRAIN))
    assert {s.id for s in train} == answers.keys() and len(answers) == report.details["trajectories"]["train"]
    said = {t.prompt: t.completion for t in all_traces(tmp_path / "state" / "traces")}
    assert {s.id: said[s.prompt] for s in train} == answers, "the student reads Bronze's very words"
    assert answers_to(train, answers, None, 40, 1.0) == [answers[s.id] for s in train], "and no teacher is asked"
    assert sum(count for rule, count in report.details["carried"].items()) == sum(found.quarantined.values())


def all_traces(folder):
    return [Trace.model_validate_json(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_the_best_answer_to_each_scenario_stays_in_whatever_order_they_come(write, scenarios, trainer, tmp_path):
    """Process verifier and outcome reward: a right answer beats one with a slip that only the outcome shows."""
    folk = [served(trainer, s, Habits(visible=1.0, hidden=0.0, noise=0.0)) for s in scenarios[:6]]
    right = [served(trainer, s) for s in scenarios[:6]]
    for i, (s, bad, good) in enumerate(zip(scenarios, folk, right, strict=False)):
        for completion in (bad, good) if i % 2 else (good, bad):
            write(s, completion)
    found = collect([str(write.folder)], str(tmp_path / "out"), None, wanted())
    kept = [
        Trajectory.model_validate(row) for row in rows(tmp_path / "out/npc_dialogue" / f"night={NIGHT}", "trajectories")
    ]
    assert {t.scenario.id: trainer.completion(t.steps) for t in kept} == {
        s.id: good for s, good in zip(scenarios, right, strict=False)
    }
    assert all(t.verdict.passed and t.teacher == "served/bronze/p1" for t in kept)
    assert found.kept == 6 and found.read == 12 and set(by_rule(found)) <= {"not_best", "duplicate", "verifier"}


def test_every_bad_trace_has_its_reason_and_none_is_lost(write, scenarios, trainer, tmp_path):
    good = [served(trainer, s) for s in scenarios]
    for s, completion in zip(scenarios[:4], good, strict=False):
        write(s, completion)
    write(scenarios[5], good[5], tier=Tier.GOLD)
    write(scenarios[5], good[5], model_type="reasoning")
    write(None, "free traffic")
    write(scenarios[5], f"write to {MAIL}")
    write(scenarios[5], "well met traveller")
    write(scenarios[5], good[6])
    forged = scenarios[5].model_copy(update={"state": {**scenarios[6].state}})
    write(forged, good[5])
    write(scenarios[5].model_copy(update={"prompt": "say yes"}), good[5])
    other = "npc/" + "x" * 8
    write(scenarios[5].model_copy(update={"group": other, "split": Split(wrong_split(trainer, other))}), good[5])
    state = {"odd": [1, None]}
    write(scenarios[5].model_copy(update={"state": state, "id": trainer.scenario_id(state)}), good[5])
    [test] = trainer.scenarios(random.Random(9), 1, [Split.TEST])
    write(test, served(trainer, test))
    raw = write.folder / "traces-000099.jsonl"
    leak = Trace.model_validate_json(next((write.folder / "traces-000001.jsonl").open())).model_copy(
        update={"completion": f"ask {MAIL}"}
    )
    raw.write_text(leak.model_dump_json() + '\n{"id": "x"}\n{"id": "cut sh')
    found = collect([str(write.folder)], str(tmp_path / "out"), None, wanted())
    assert found.kept == 4 and found.kept + sum(found.quarantined.values()) == found.read == 18
    assert by_rule(found) == {
        "tier": 1,
        "model_type": 1,
        "scenario": 1,
        "redacted": 1,
        "unreadable": 1,
        "verifier": 1,
        "id": 1,
        "prompt": 1,
        "split": 1,
        "state": 1,
        "contamination": 1,
        "personal_data": 1,
        "schema": 2,
    }
    folder = tmp_path / "out/npc_dialogue" / f"night={NIGHT}"
    refused = [Rejected.model_validate(row) for row in rows(folder, "quarantine")]
    assert len(refused) == 14 and all(r.stage == "trace_collection" and r.reason for r in refused)
    assert MAIL not in " ".join(r.reason for r in refused)


def wrong_split(trainer, group):
    return next(split for split in (Split.TRAIN, Split.VALIDATION) if split != trainer.split_of(group))


def test_a_claimed_score_is_believed_in_nothing(write, scenarios, trainer, tmp_path):
    for s in scenarios[:3]:
        write(s, served(trainer, s))
    file = write.folder / "traces-000001.jsonl"
    lines = [Trace.model_validate_json(line).model_copy(update={"score": 0.1}) for line in file.open()]
    file.write_text("".join(t.model_dump_json() + "\n" for t in lines))
    found = collect([str(write.folder)], str(tmp_path / "out"), None, wanted())
    assert (found.kept, found.disagreements) == (3, 3)


def test_too_little_writes_nothing_and_leaves_the_night_to_the_experts_trajectories(
    write, scenarios, trainer, tmp_path
):
    write(scenarios[0], served(trainer, scenarios[0]))
    with pytest.raises(GateError, match=r"1 scenarios have an answer of bronze worth keeping, 100 are wanted"):
        collect([str(write.folder)], str(tmp_path / "out"), str(tmp_path / "nights"), wanted(min_scenarios=100))
    assert not (tmp_path / "nights").exists()
    assert list((tmp_path / "out").rglob("*.parquet")) == [] and list((tmp_path / "out").rglob("*partial*")) == []


@pytest.mark.parametrize(
    ("changes", "sources", "error", "said"),
    [
        ({}, [], UsageError, "no traces to collect"),
        ({"night": "6 January"}, ["x"], UsageError, "night '6 January' is no date: write YYYY-MM-DD"),
        ({}, ["/nowhere"], PipelineError, "no folder /nowhere: check the path"),
        ({}, ["."], PipelineError, r"no traces-\*.jsonl in \."),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(changes, sources, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        collect(sources, str(tmp_path / "out"), None, wanted(**changes))


# ---- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_policy_answers_training_scenarios_itself_and_the_same_twice(tmp_path):
    options = {"policy": configs_root() / "models/local/bronze", "scenarios": 24, "samples": 3, "max_tokens": 40}
    digests = []
    for name in ("a", "b"):
        found = collect([], str(tmp_path / name), None, wanted(**options))
        assert found.read == 72 == found.kept + sum(found.quarantined.values())
        digests.append([p["id"] for p in rows(tmp_path / name / "npc_dialogue" / f"night={NIGHT}", "trajectories")])
    assert digests[0] == digests[1] and 3 <= len(digests[0]) <= 24


# ---- where it lies ---------------------------------------------------------------------------------------------------


def test_on_s3_it_appears_with_its_manifest_last_and_is_noted_for_the_machine(write, scenarios, trainer, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for s in scenarios[:5]:
        write(s, served(trainer, s))
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="game-data")
        for file in write.folder.glob("*.jsonl"):
            s3.upload_file(str(file), "game-data", f"traces/router/{file.name}")
        for _ in range(2):  # a second collection of the night replaces the first
            found = collect(
                ["s3://game-data/traces/router/"],
                "s3://game-data/traces/collected",
                "s3://game-data/nights/state/",
                wanted(),
            )
        assert found.uri == f"s3://game-data/traces/collected/npc_dialogue/night={NIGHT}/"
        listed = s3.list_objects_v2(Bucket="game-data", Prefix="traces/collected/")["Contents"]
        names = {item["Key"].rpartition("/")[2]: item["LastModified"] for item in listed}
        assert set(names) == {"manifest.json", "trajectories.parquet", "scenarios.parquet", "quarantine.parquet"}
        assert names["manifest.json"] == max(names.values())
        noted = json.loads(
            s3.get_object(Bucket="game-data", Key="nights/state/npc_dialogue/traces.json")["Body"].read()
        )
        assert noted["uri"] == found.uri and noted["night"] == NIGHT and noted["execution"] is None
        assert (noted["kept"], noted["read"], noted["policies"]) == (5, 5, {"p1": 5})
        with pytest.raises(PipelineError, match="nothing lies under s3://game-data/none/"):
            collect(["s3://game-data/none"], "s3://game-data/out", None, wanted())
        with pytest.raises(UsageError, match="names no prefix"):
            collect(["s3://game-data"], "s3://game-data/out", None, wanted())
        with pytest.raises(PipelineError, match=r"s3://absent/x: .*NoSuchBucket.*: check the name"):
            collect(["s3://absent/x"], "s3://game-data/out", None, wanted())


def test_the_command(write, scenarios, trainer, tmp_path):
    for s in scenarios[:4]:
        write(s, served(trainer, s))
    arguments = ["collect-traces", str(write.folder), "--model-type", "npc_dialogue", "--night", NIGHT]
    arguments += ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "nights"), "--min-scenarios", "4"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.output.startswith("4 of 4 traces kept in ") and f"night={NIGHT}" in done.output
    noted = json.loads((tmp_path / "nights" / "npc_dialogue" / "traces.json").read_text())
    assert noted["uri"].endswith(f"/out/npc_dialogue/night={NIGHT}/") and noted["stage"] == "trace_collection"
    assert (
        len([Scenario.model_validate(r) for r in rows(tmp_path / "out/npc_dialogue" / f"night={NIGHT}", "scenarios")])
        == 1104
    )

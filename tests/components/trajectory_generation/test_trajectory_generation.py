import json
from collections import Counter

import pytest

from components.entrypoints.execution import Request, execute
from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.teacher_config import TeacherConfig
from components.shared.collaboration.teacher_planner import OpenAITeacher, ScriptedTeacher
from components.shared.contracts.errors import CorruptArtifact, GateError, UsageError
from components.shared.contracts.records import Attempt, Exhausted, Rejected, Scenario, Split, Trajectory
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import verify
from components.shared.storage.jsonl import read_jsonl
from components.shared.trainers.npc_dialogue_trainer import NPCDialogueTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import recreate_trainer
from components.trajectory_generation.run import quarantined
from components.trajectory_generation.setup import create_retriever, create_teachers
from components.trajectory_generation.spec import SPEC, TrajectoryGenerationConfig

CONFIG = {"counts": {"train": 120, "validation": 15, "test": 40, "practice": 30}, "seed": 4}


def generate(folder, **changes):
    outputs = {"trajectories": folder / "trajectories", "report": folder / "report"}
    return execute(Request(spec=SPEC, config={**CONFIG, **changes}, inputs={}, outputs=outputs))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    return folder, generate(folder)


def records(folder):
    source = folder / "trajectories"
    return (
        list(read_jsonl(source / "trajectories.jsonl", Trajectory)),
        list(read_jsonl(source / "scenarios.jsonl", Scenario)),
        list(read_jsonl(source / "quarantine.jsonl", Rejected)),
    )


def test_every_taught_scenario_is_accepted_or_in_quarantine(generated):
    trajectories, scenarios, quarantine = records(generated[0])
    assert Counter(s.split for s in scenarios) == {Split.TRAIN: 120 + 30, Split.VALIDATION: 15, Split.TEST: 40}
    train = [s.id for s in scenarios if s.split == Split.TRAIN]
    taught = train[:120] + [s.id for s in scenarios if s.split == Split.VALIDATION]
    exhausted = [Exhausted.model_validate(r.record).scenario.id for r in quarantine]
    assert sorted([t.scenario.id for t in trajectories] + exhausted) == sorted(taught)


def test_what_is_accepted_passed_and_knows_its_context(generated):
    trajectories, _, _ = records(generated[0])
    assert all(t.verdict and t.verdict.passed and t.verdict.score >= 0.7 for t in trajectories)
    assert all(t.teacher == "scripted" and 1 <= len(t.context) <= 4 for t in trajectories)
    assert len({t.id for t in trajectories}) == len(trajectories)


def test_the_report_counts_what_the_files_hold(generated):
    folder, report = generated
    trajectories, _, quarantine = records(folder)
    passed_at = Counter(f"attempt {t.attempt}" for t in trajectories)
    passed_at.update({"none": len(quarantine)} if quarantine else {})
    assert report.details["passed_at"] == passed_at
    assert report.metrics["acceptance"] == len(trajectories) / 135
    assert report.metrics["mean_verdict"] == pytest.approx(
        sum(t.verdict.score for t in trajectories) / len(trajectories)
    )
    samples = [json.loads(line) for line in (folder / "report" / "samples.jsonl").read_text().splitlines()]
    assert sum(s["accepted"] for s in samples) == 5 and all(s["completion"] for s in samples)


def test_the_manifest_says_who_made_it(generated):
    metadata = verify(generated[0] / "trajectories", ArtifactKind.TRAJECTORIES).metadata
    trainer = recreate_trainer(metadata)
    assert (trainer.name, metadata["world_digest"]) == ("npc_dialogue", trainer.world.digest)


def test_the_same_configuration_gives_the_same_bytes_and_another_seed_does_not(generated, tmp_path):
    generate(tmp_path / "same")
    generate(tmp_path / "other", seed=5)
    first, same, other = (verify(f / "trajectories") for f in (generated[0], tmp_path / "same", tmp_path / "other"))
    assert verify(generated[0] / "report") == verify(tmp_path / "same" / "report")
    assert first == same
    assert first.files["trajectories.jsonl"] != other.files["trajectories.jsonl"]


def test_what_the_planner_learns_in_one_night_it_knows_in_the_next(tmp_path):
    choice = {"strategies": ["examples", "brief"], "depths": [2, 5], "round_size": 40}
    report = generate(tmp_path / "first", planner=choice)
    state = json.loads((tmp_path / "first" / "report" / "planner.json").read_text())
    planner = report.details["planner"]
    assert planner["lessons_in_all"] == state["lessons"] == 135
    assert len(planner["mean_regret_by_round"]) == 4 and planner["regret"] >= 0
    assert sum(c["chosen"] for c in planner["choices"].values()) == 135
    second = generate(tmp_path / "second", planner={**choice, "state": state})
    assert second.details["planner"]["lessons_in_all"] == 270
    generate(tmp_path / "again", planner=choice)
    assert verify(tmp_path / "again" / "report") == verify(tmp_path / "first" / "report")


def test_a_night_goes_on_from_the_one_before_and_again_from_the_same_when_it_is_run_again(tmp_path):
    choice = {"strategies": ["examples", "brief"], "round_size": 40, "memory": str(tmp_path / "memory")}
    lessons = [
        generate(tmp_path / name, planner=choice, seed=seed).details["planner"]["lessons_in_all"]
        for name, seed in (("monday", 4), ("tuesday", 5), ("monday again", 4), ("tuesday again", 5), ("wednesday", 6))
    ]
    assert lessons == [135, 270, 135, 270, 405]
    assert verify(tmp_path / "tuesday" / "report") == verify(tmp_path / "tuesday again" / "report")
    [night, *_] = sorted((tmp_path / "memory" / "npc_dialogue").iterdir())
    night.write_text("{}")
    with pytest.raises(CorruptArtifact, match=f"{night} is no night of the planner's"):
        generate(tmp_path / "thursday", planner=choice, seed=7)


def test_a_teacher_that_never_gets_it_right_fills_the_quarantine(tmp_path, monkeypatch):
    honest = NPCDialogueTrainer.verify
    monkeypatch.setattr(
        NPCDialogueTrainer, "verify", lambda self, s, steps: halved(honest(self, s, steps), self.pass_score)
    )
    report = generate(tmp_path)
    trajectories, _, quarantine = records(tmp_path)
    assert not trajectories and len(quarantine) == 135 and "mean_verdict" not in report.metrics
    assert all(len(r.record["attempts"]) == 3 and r.rule == "verifier" for r in quarantine)


def halved(verdict, pass_score):
    return verdict.model_copy(update={"score": verdict.score / 2, "passed": verdict.score / 2 >= pass_score})


def test_a_verifier_that_says_the_same_of_everything_stops_the_stage(tmp_path, monkeypatch):
    honest = NPCDialogueTrainer.verify
    same = {"score": 1.0, "passed": True, "gates": {}}
    monkeypatch.setattr(NPCDialogueTrainer, "verify", lambda *a: honest(*a).model_copy(update=same))
    with pytest.raises(GateError, match="verifier gives 1 to all"):
        generate(tmp_path)
    assert not list(tmp_path.glob("trajectories*"))


def test_the_configured_endpoints_become_the_teachers(monkeypatch, tmp_path):
    monkeypatch.setenv("SRL_RLVR_REQUEST_CACHE", str(tmp_path / "requests.sqlite"))
    trainer = create_trainer("npc_dialogue", "wrackmere")
    big = TeacherConfig(kind="openai", base_url="http://127.0.0.1:1/v1", model="big-one", key_variable=None)
    teachers = create_teachers(trainer, TrajectoryGenerationConfig(teacher=big, more_teachers=(TeacherConfig(),)))
    assert {name: type(teacher) for name, teacher in teachers.items()} == {
        "big-one": OpenAITeacher,
        "scripted": ScriptedTeacher,
    }


def test_the_index_of_a_knowledge_base_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SRL_RLVR_REQUEST_CACHE", str(tmp_path / "requests.sqlite"))
    (tmp_path / "lore").mkdir()
    documents = [{"id": f"d{n}", "title": "Bell", "entities": [], "text": f"bell number {n}"} for n in range(3)]
    (tmp_path / "lore" / "bells.jsonl").write_text("".join(f"{json.dumps(d)}\n" for d in documents))
    config = TrajectoryGenerationConfig(knowledge=str(tmp_path / "lore"))
    first = create_retriever(config).retrieve("bell 2", 1)
    monkeypatch.setattr(ContextRetriever, "_build", lambda self: pytest.fail("built again"))
    assert create_retriever(config).retrieve("bell 2", 1) == first and first[0].id == "d2"


def test_answers_that_nobody_could_read_are_quarantined_as_they_came(generated):
    _, scenarios, _ = records(generated[0])
    attempts = tuple(Attempt(number=n, fault="Invalid JSON", answer="hm") for n in (1, 2, 3))
    rejected = quarantined(Exhausted(scenario=scenarios[0], teacher="m", context=(), attempts=attempts))
    assert rejected.rule == "unreadable" and rejected.reason == "no attempt of 3 passed; the last: Invalid JSON"
    assert [a["answer"] for a in rejected.record["attempts"]] == ["hm"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "npc_dialog"}, "did you mean 'npc_dialogue'"),
        ({"world": "wrackmer"}, "did you mean 'wrackmere'"),
        ({"teacher": {"kind": "openai"}}, "teacher.base_url is not set"),
        ({"teacher": {"kind": "openai", "base_url": "http://x", "model": "m", "key_variable": "NO_KEY"}}, "NO_KEY"),
        ({"more_teachers": [{}]}, "teachers scripted, scripted: a name is there twice"),
        ({"planner": {"strategies": ["telepathy"]}}, "strategies.0 = 'telepathy'"),
        ({"planner": {"depths": [2, 2]}}, "2 plans, 1 of them distinct"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"counts": {"tain": 3}}, "did you mean 'train'"),
    ],
)
def test_a_bad_request_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        generate(tmp_path, **changes)
    assert not any(tmp_path.iterdir())

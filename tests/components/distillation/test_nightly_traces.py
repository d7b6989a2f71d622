"""The night's job: one day's files, and a word on what came of them in every case that is no fault."""

import json
import random

import pytest

from components.distillation.nightly_traces import main
from components.shared.contracts.records import Split, Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.traces import TraceWriter
from components.shared.storage.artifacts import verify
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer

NIGHT = "2026-01-06"
FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


@pytest.fixture(scope="module")
def answers():
    """Scenarios of the training split, each with a right answer."""
    trainer, rng = create_trainer("npc_dialogue", "wrackmere"), random.Random(5)
    scenarios = list(trainer.scenarios(rng, 12, [Split.TRAIN]))
    return [(s, trainer.completion(trainer.demonstrate(s, rng, FLAWLESS))) for s in scenarios]


@pytest.fixture
def served(tmp_path):
    """Write answers of Bronze as a router's host ships them."""

    def write(day, router, answers):
        writer = TraceWriter(tmp_path / "served" / day / router)
        for scenario, text in answers:
            writer.write(
                model_type="npc_dialogue", tier=Tier.BRONZE, policy="p", prompt=scenario.prompt, completion=text,
                latency_ms=1.0, scenario=scenario,
            )  # fmt: skip
        writer.close()

    return write


@pytest.fixture
def run(tmp_path):
    """The job's exit code, and what it says came of it."""

    def ran(*more, night=NIGHT):
        places = ["--logs", str(tmp_path / "served"), "--out", str(tmp_path / "collected")]
        code = main(["--model-type", "npc_dialogue", "--night", night, *places, *more])
        said = tmp_path / "collected" / "npc_dialogue" / f"night={night}.json"
        return code, json.loads(said.read_text()) if said.exists() else None

    return ran


def test_the_files_of_every_router_of_the_day_before_and_no_others(served, run, answers, tmp_path):
    served("2026-01-05", "router-1", answers[:4])
    served("2026-01-05", "router-2", answers[4:7])
    served("2026-01-04", "router-1", answers[7:])
    served("2026-01-06", "router-1", answers[7:])
    code, said = run("--min-scenarios", "7")
    assert (code, said["read"], said["kept"], said["policies"]) == (0, 7, 7, {"p": 7})
    assert (said["stage"], said["night"], said["tier"]) == ("trace_collection", NIGHT, "bronze")
    artifact = tmp_path / "collected" / "npc_dialogue" / f"night={NIGHT}"
    assert said["uri"] == f"{artifact}/"
    assert verify(artifact, ArtifactKind.TRAJECTORIES).metadata["kept"] == 7


def test_nothing_and_too_little_are_said_and_leave_no_artifact(served, run, answers, tmp_path):
    (tmp_path / "served" / "2026-01-05").mkdir(parents=True)
    code, said = run()
    assert code == 0 and "uri" not in said and said["detail"] == f"no traces under {tmp_path}/served/2026-01-05"
    served("2026-01-05", "router-1", answers[:3])
    code, said = run()
    assert code == 0 and "uri" not in said
    assert said["detail"].startswith("3 scenarios have an answer of bronze worth keeping, 100 are wanted")
    assert not (tmp_path / "collected" / "npc_dialogue" / f"night={NIGHT}").exists()


def test_a_fault_is_one_line_and_says_nothing_of_the_night(run, capsys):
    assert run(night="6 January") == (2, None)
    assert capsys.readouterr().err == "error: night '6 January' is no date: write YYYY-MM-DD\n"

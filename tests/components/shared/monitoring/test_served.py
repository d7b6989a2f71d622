"""The night's look at what serves: a verdict for every tier, also where there is nothing to compare."""

import json
import random

import pytest

from components.shared.contracts.records import Split, Tier
from components.shared.contracts.weakness import Checked, Evaluated
from components.shared.monitoring.__main__ import main
from components.shared.serving.traces import TraceWriter
from components.shared.storage.jsonl import write_jsonl
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer

NIGHT, DAY = "2026-01-06", "2026-01-05"
FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Evidence of a version that answers right, and a day on which Gold does and Silver does not."""
    folder, rng = tmp_path_factory.mktemp("served"), random.Random(3)
    trainer = create_trainer("npc_dialogue", "wrackmere")
    scenarios = list(trainer.scenarios(rng, 400, [Split.TEST]))
    perfect = {"candidate": Checked(score=1.0, correct=True, faults=())}
    rows = [Evaluated(scenario=s.id, traits={}, difficulty=s.difficulty, outcomes=perfect) for s in scenarios]
    write_jsonl(folder / "evidence" / "answers.jsonl", rows)
    writer = TraceWriter(folder / "logs" / DAY / "router-1")
    for scenario in scenarios[:150]:
        right = trainer.completion(trainer.demonstrate(scenario, rng, FLAWLESS))
        for tier, text in ((Tier.GOLD, right), (Tier.SILVER, "well met")):
            writer.write(
                model_type="npc_dialogue", tier=tier, policy="p", prompt=scenario.prompt, completion=text,
                latency_ms=1.0, scenario=scenario,
            )  # fmt: skip
    writer.close()
    return folder


def look(place, tmp_path, *evidence, night=NIGHT):
    out = tmp_path / "drift"
    given = ["--model-type", "npc_dialogue", "--night", night, "--logs", str(place / "logs"), "--out", str(out)]
    code = main([*given, "--evidence", *evidence])
    said = out / "npc_dialogue" / f"{night}.json"
    return code, {item["tier"]: item for item in json.loads(said.read_text())["tiers"]} if said.exists() else None


def test_each_tier_is_held_against_its_own_version(place, tmp_path):
    evidence = place / "evidence"
    code, found = look(place, tmp_path, "bronze=none", f"silver={evidence}", f"gold={evidence}")
    assert code == 0 and list(found) == ["bronze", "silver", "gold"]
    assert {tier: item["verdict"] for tier, item in found.items()} == {
        "bronze": "unknown",
        "silver": "block",
        "gold": "none",
    }
    assert found["bronze"]["detail"] == "no version serves" and "InputDriftPSI" not in found["bronze"]
    assert found["silver"]["RewardDriftPSI"] > 0.25 and found["silver"]["InputDriftPSI"] == 0
    assert found["gold"]["compared"] == 150 and "over 150 answers" in found["gold"]["detail"]


def test_a_tier_that_answered_nothing_and_a_day_without_files_are_no_faults(place, tmp_path):
    code, found = look(place, tmp_path, f"bronze={place / 'evidence'}")
    assert code == 0 and "none of 0 traces of npc_dialogue on bronze can be compared" in found["bronze"]["detail"]
    code, found = look(place, tmp_path, f"gold={place / 'evidence'}", night="2026-01-09")
    assert code == 0 and found["gold"]["detail"] == f"no traces under {place}/logs/2026-01-08"


@pytest.mark.parametrize(
    ("evidence", "exit_code", "said"),
    [
        ("golden=none", 2, "unknown tier 'golden': did you mean 'gold'?"),
        ("gold", 2, "--evidence 'gold' is not TIER=FOLDER: write gold=none where nothing serves"),
        ("gold=/nowhere", 1, "no folder /nowhere: check the path"),
    ],
)
def test_a_fault_is_one_line(place, tmp_path, capsys, evidence, exit_code, said):
    assert look(place, tmp_path, evidence) == (exit_code, None)
    assert capsys.readouterr().err == f"error: {said}\n"

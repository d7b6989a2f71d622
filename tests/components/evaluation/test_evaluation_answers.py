"""What evaluation leaves for those who look for weaknesses."""

from components.evaluation.run import ROLES, run
from components.evaluation.spec import EvaluationConfig
from components.shared.contracts.records import Split
from components.shared.contracts.weakness import ANSWERS, WEAKNESSES, Evaluated, WeaknessReport
from components.shared.storage.artifacts import read_manifest
from components.shared.storage.jsonl import read_jsonl


def test_every_scenario_is_there_with_each_roles_outcome(npc_dataset, npc_policy_folder, tmp_path):
    outputs = {name: tmp_path / name for name in ("accepted_policy", "report")}
    for folder in outputs.values():
        folder.mkdir()
    inputs = {"dataset": npc_dataset.folder, **dict.fromkeys(ROLES, npc_policy_folder)}
    report = run(EvaluationConfig(resamples=200), inputs, outputs)
    answers = list(read_jsonl(outputs["report"] / ANSWERS, Evaluated))
    assert [a.scenario for a in answers] == [s.id for s in npc_dataset.scenarios(Split.TEST)]
    assert all(set(a.outcomes) == set(ROLES) for a in answers)
    mean = sum(a.outcomes["candidate"].score for a in answers) / len(answers)
    assert abs(mean - report.metrics["candidate_greedy"]) < 1e-9
    found = WeaknessReport.model_validate_json((outputs["report"] / WEAKNESSES).read_bytes())
    assert (found.model_type, found.policy) == ("npc_dialogue", read_manifest(npc_policy_folder).digest)
    assert found.degraded == ()

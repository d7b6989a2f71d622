import json

import pytest
from pydantic import ValidationError

from components.shared.contracts.records import Split
from components.shared.training.grpo.settings import SamplingSettings
from components.shared.training.policies import load_policy
from components.srl.run import run
from components.srl.similarity_trainer import StepLikeness, task_rows
from components.srl.spec import Likeness, Reading, SimilaritySettings, SRLConfig, StepFormat
from components.srl.step_rewards import FORMAT_ERROR, above_floor, exact, fast
from components.srl.step_tasks import step_tasks

SMALL = SimilaritySettings(steps=3, prompts_per_step=4, group_size=4, learning_rate=1e-3)


@pytest.fixture
def tasks(npc_dataset):
    return step_tasks(npc_dataset.trajectories(Split.TRAIN), StepFormat.PLAIN, show_title=False)


@pytest.fixture
def srl(npc_dataset, npc_policy_folder, tmp_path):
    """Runs the stage in the reading of the paper; returns its report, its curves and its output folders."""

    def go(name="out", similarity=SMALL, **changes):
        outputs = {key: tmp_path / name / key for key in ("policy", "report")}
        for folder in outputs.values():
            folder.mkdir(parents=True)
        inputs = {"dataset": npc_dataset.folder, "policy": npc_policy_folder}
        config = SRLConfig(
            **({"validation": {"every": 0}} | changes), reading=Reading.SIMILARITY, similarity=similarity
        )
        report = run(config, inputs, outputs)
        curve = [json.loads(line) for line in (outputs["report"] / "metrics.jsonl").read_text().splitlines()]
        return report, curve, outputs

    return go


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_the_reading_runs_with_and_without_a_penalty_and_under_the_ceiling(srl, npc_policy_folder, kl_weight):
    report, curve, outputs = srl(similarity=SMALL.model_copy(update={"kl_weight": kl_weight}))
    assert report.metrics["updates"] == 3 and report.details["reason"] == "done"
    assert [row["beta"] == 0 for row in curve] == [kl_weight == 0] * 3
    assert max(row["kl_probe"] for row in curve) == pytest.approx(report.metrics["highest_kl"])
    before, after = (load_policy(f).model.state_dict() for f in (npc_policy_folder, outputs["policy"]))
    assert any((before[name] != after[name]).any() for name in before)


def test_no_update_reaches_the_ceiling(srl):
    report, curve, _ = srl(
        similarity=SMALL.model_copy(update={"steps": 6, "learning_rate": 3e-2}), max_kl=0.02, patience=50
    )
    assert report.metrics["refused"] > 0
    assert max(row["kl_probe"] for row in curve) < 0.02


def test_the_same_configuration_gives_the_same_bytes(srl):
    first, second = (srl(name)[2]["policy"] / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_samples_become_more_like_the_experts_steps(srl):
    """Hot samples of a policy that knows some of the steps; every group is used, so that the means compare."""
    settings = SMALL.model_copy(
        update={
            "steps": 30,
            "prompts_per_step": 8,
            "learning_rate": 5e-3,
            "temperature": 1.8,
            "sampling": SamplingSettings(rounds=1),
        }
    )
    report, _, _ = srl(similarity=settings, max_kl=5.0)
    assert report.details["last_likeness"] > report.details["first_likeness"] + 0.05


@pytest.mark.parametrize(("likeness", "measure"), [(Likeness.EXACT, exact), (Likeness.FAST, fast)])
def test_the_reward_is_the_likeness_above_the_floor(npc_dataset, tasks, likeness, measure):
    reward = StepLikeness(npc_dataset.trainer, tasks, SimilaritySettings(likeness=likeness, floor=0.3))
    ours = "recall none ; rule"
    [found] = reward([f" {ours} "], index=[0])
    assert found == above_floor(measure(ours, tasks[0].expected), 0.3)
    assert reward([tasks[0].expected], index=[0]) == [1.0]
    assert reward(["zzzz"], index=[0]) == [0.0]


def test_typed_likeness_reads_the_step_with_the_model_types_own_parser(npc_dataset, tasks):
    reward = StepLikeness(npc_dataset.trainer, tasks, SimilaritySettings(likeness=Likeness.TYPED, floor=0.0))
    for index, task in enumerate(tasks[:5]):
        assert reward([task.expected], index=[index]) == [1.0]
        assert reward(["gibberish"], index=[index]) == [0.0]
    say = next(i for i, t in enumerate(tasks) if t.position == 4)
    words = tasks[say].expected.split()
    closing = next(t.expected.split()[-1] for t in tasks if t.position == 4 and t.expected.split()[-1] != words[-1])
    [partial] = reward([" ".join([*words[:-1], closing])], index=[say])
    assert partial == pytest.approx(0.75)


def test_a_broken_format_costs_one(npc_dataset, tasks):
    reward = StepLikeness(npc_dataset.trainer, tasks, SimilaritySettings(format=StepFormat.THINK_ACT))
    expected = tasks[0].expected
    assert reward([expected, f"<think>so</think> {expected}"], index=[0, 0]) == [FORMAT_ERROR, 1.0]


def test_plain_steps_may_be_as_long_as_the_experts_and_thoughts_get_room(npc_policy_folder, tasks):
    policy = load_policy(npc_policy_folder)
    plain = task_rows(policy, tasks, SimilaritySettings())
    assert [row["max_tokens"] for row in plain] == [len(task.expected.split()) for task in tasks]
    thinking = task_rows(policy, tasks, SimilaritySettings(format=StepFormat.THINK_ACT, think_tokens=10))
    longest = max(len(task.expected.split()) for task in tasks)
    assert {row["max_tokens"] for row in thinking} == {10 + longest + 1}


def test_a_floor_of_one_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        SimilaritySettings(floor=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("reading", list(Reading))
def test_either_reading_looks_at_held_out_scenarios_and_says_what_it_gained(
    npc_dataset, npc_policy_folder, tmp_path, reading
):
    outputs = {key: tmp_path / key for key in ("policy", "report")}
    for folder in outputs.values():
        folder.mkdir(parents=True)
    inputs = {"dataset": npc_dataset.folder, "policy": npc_policy_folder}
    config = SRLConfig(
        reading=reading, similarity=SMALL, steps=3, batch_size=4, validation={"every": 2, "scenarios": 6}
    )
    report = run(config, inputs, outputs)
    found = report.details["validation"]
    rows = map(json.loads, (outputs["report"] / "metrics.jsonl").read_text().splitlines())
    scores = {row["step"]: row["validation_score"] for row in rows if "validation_score" in row}
    assert list(scores) == [0, 2, 3] and (found["looks"], found["stop"]) == (3, None)
    assert found["best"]["score"] == max(scores[2], scores[3]) and found["last"]["score"] == scores[3]
    assert found["last"]["gain"] == pytest.approx(scores[3] - scores[0])

import time
from pathlib import Path

import pytest

from benchmarks.learning.bench import Bench, thinned, updates_for
from benchmarks.learning.plan import ARMS, LEARN, LEARN_FULL, Job, Plan
from benchmarks.learning.results import ArmResult, Held, read_result, write_result
from components.rlvr.spec import RLVRConfig
from components.shared.contracts.errors import PipelineError

SMALL = (
    "trajectory_generation.counts.train=60",
    "trajectory_generation.counts.validation=10",
    "trajectory_generation.counts.test=100",
    "data_validation.min_train=20",
    "srl.steps=3",
)
ONE = Plan(model_types=("npc_dialogue",), seeds=(1,), arms=("srl",))


@pytest.fixture
def bench(tmp_path):
    """A bench in a folder of its own, with the given settings."""
    return lambda *assignments: Bench(tmp_path / "results", tmp_path / "work", assignments=assignments)


def result(bench, job):
    return ArmResult(
        model_type=job.model_type,
        seed=job.seed,
        arm=job.arm,
        identity=bench.identity(job),
        stage_cpu_seconds=1.0,
        cpu_seconds=1.0,
        updates=1,
        test=Held(score=0.5, correct=0.5, sampled=0.5, reward=0.5, scenarios=1),
        kept={},
        curves={},
    )


@pytest.mark.parametrize("plan", [LEARN, LEARN_FULL])
def test_a_plan_holds_what_its_arms_need(plan):
    assert all(ARMS[arm].needs <= set(plan.arms) for arm in plan.arms)


def test_what_is_measured_is_not_measured_again(bench, tmp_path):
    ours = bench()
    for job in LEARN.jobs():
        write_result(ours.results, result(ours, job))
    ours.run(LEARN, workers=2)
    assert not (tmp_path / "work").exists()


def test_a_known_cost_does_not_train_its_arm_again(bench):
    """RLVR alone builds on the base and asks SRL -> RLVR only what it cost."""
    ours, job = bench(), Job("npc_dialogue", 1, "rlvr")
    assert [j.arm for j in ours._needed(job)] == ["rlvr", "base", "srl_rlvr", "srl", "base"]
    write_result(ours.results, result(ours, job._replace(arm="srl_rlvr")))
    assert [j.arm for j in ours._needed(job)] == ["rlvr", "base"]


def test_another_configuration_is_another_result(bench):
    ours, job = bench(), Job("npc_dialogue", 1, "srl_rlvr")
    assert ours.identity(job) == bench().identity(job)
    changes = ("srl.steps=3", "rlvr.steps=3", "trajectory_generation.counts.train=60")
    others = {bench(change).identity(job) for change in changes} | {ours.identity(job._replace(seed=2))}
    assert len(others | {ours.identity(job)}) == 5
    assert bench("rlvr.steps=3").identity(job._replace(arm="srl")) == ours.identity(job._replace(arm="srl"))


def test_stages_are_told_what_a_run_would_tell_them(bench):
    ours, job = bench("rlvr.learning_rate=1e-4"), Job("npc_dialogue", 2, "srl_ppo")
    config = ours.stage_config(job, "rlvr", ARMS["srl_ppo"].settings)
    told = {key: config[key] for key in ("learning_rate", "algorithm", "seed", "steps")}
    assert told == {"learning_rate": 1e-4, "algorithm": "ppo", "seed": 2, "steps": RLVRConfig().steps}


def test_updates_of_a_budget_lie_on_the_line_through_two_runs():
    assert updates_for(110.0, few=(2, 14.0), many=(50, 62.0)) == 98
    assert updates_for(5.0, few=(2, 14.0), many=(50, 62.0)) == 1
    with pytest.raises(PipelineError, match=r"train the first longer \(rlvr\.steps\)"):
        updates_for(110.0, few=(2, 14.0), many=(2, 14.0))


def test_a_long_curve_is_thinned_to_means():
    curve = thinned([(step, float(step)) for step in range(100)])
    assert len(curve) == 34 and curve[0] == (2, 1.0) and curve[-1] == (99, 99.0)
    assert thinned([(1, 0.5)]) == [(1, 0.5)]


@pytest.mark.slow
@pytest.mark.whole
def test_an_arm_is_trained_and_scored_once_whatever_stops_it(bench):
    ours, job = bench(*SMALL), Job("npc_dialogue", 1, "srl")
    ours.run(ONE, workers=1)
    first = read_result(ours.results, job)
    assert first.updates == 3 and first.test.scenarios == 100 and set(first.kept) == {"reasoning", "story_generation"}
    assert first.cpu_seconds == first.stage_cpu_seconds > 1 and first.highest_kl < 0.1
    (weights,) = ours.work.rglob("srl-*/policy/model.safetensors")
    written = weights.stat().st_mtime_ns
    (ours.results / "npc_dialogue-1-srl.json").unlink()  # as if stopped after training, before the scores were there
    ours.run(ONE, workers=1)
    assert read_result(ours.results, job) == first and weights.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_stage_that_fails_is_one_line_with_its_reason(bench):
    with pytest.raises(PipelineError, match=r"components data_validation failed \(error: .*500"):
        bench(*SMALL, "data_validation.min_train=500").run(ONE, workers=1)


@pytest.mark.slow
def test_sft_keeps_to_its_seconds_and_learns_the_rows_that_srl_learns(npc_dataset, npc_policy_folder, tmp_path):
    from benchmarks.learning.sft import rows, train
    from components.shared.training.policies import load_policy

    policy = load_policy(npc_policy_folder)
    data = rows(policy, npc_dataset)
    assert len(data) == 18 and data[0]["input_ids"][-1] == policy.tokenizer.eos_token_id
    assert sum(data[0]["completion_mask"]) < len(data[0]["completion_mask"]) == len(data[0]["input_ids"])
    until = time.process_time() + 4
    log = train(policy, data, seconds=until, rate=1e-3, seed=0, scratch=str(Path(tmp_path) / "trl"))
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    assert abs(time.process_time() - until) < 1.5

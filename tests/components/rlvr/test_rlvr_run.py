import pytest
from pydantic import ValidationError

from components.rlvr.run import run
from components.rlvr.spec import HintSettings, PPOSettings, RLVRConfig, RolloutEngine, WatchSettings
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.training.grpo.settings import Algorithm, KLSettings, SamplingSettings
from components.shared.training.policies import load_policy
from components.shared.training.validation_callback import held_out

SMALL = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "learning_rate": 1e-3, "validation": {"every": 0}}


@pytest.fixture
def rlvr(run_training):
    """Runs the stage."""
    return lambda name="out", **changes: run_training(run, RLVRConfig(**(SMALL | changes)), name)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_runs_the_stage_and_leaves_a_plain_policy(rlvr, npc_policy_folder, algorithm):
    report, curve, outputs = rlvr(algorithm=algorithm, ppo=PPOSettings(value_warmup_steps=1))
    assert report.metrics["updates"] == 2 and algorithm in report.summary
    updates = [row for row in curve if "rollout_reward" in row]
    assert len(updates) == 2 and all(row["kl_probe"] < 0.6 for row in updates)
    before, after = (load_policy(folder).model.state_dict() for folder in (npc_policy_folder, outputs["policy"]))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_the_same_configuration_gives_the_same_bytes(rlvr):
    results = [rlvr(name, sampling=SamplingSettings(rounds=3))[2] for name in ("a", "b")]
    for part, file in (("policy", "model.safetensors"), ("report", "metrics.jsonl"), ("report", "samples.jsonl")):
        first, second = ((outputs[part] / file).read_bytes() for outputs in results)
        assert first == second


def test_forgetting_is_measured_before_and_after_on_held_out_tasks(rlvr):
    report, _, _ = rlvr()
    before, after = (report.details["forgetting"][when] for when in ("before", "after"))
    assert (before["tasks"], before["texts"]) == (after["tasks"], after["texts"]) == (8, 6)
    assert before["nll"] > 0 and before["nll"] != after["nll"]
    assert 0 <= before["accuracy"] <= 1


def test_unsolved_prompts_learn_from_hints_within_their_share(rlvr):
    """In groups of three many go unsolved; a third of the twelve prompts may have a hint."""
    _, curve, _ = rlvr(hints=HintSettings(max_share=0.34), prompts_per_step=12, group_size=3, temperature=1.5)
    hinted = [row["groups_hinted"] for row in curve if "groups_hinted" in row]
    assert 0 < max(hinted) <= 4


def test_the_ceiling_ends_a_run_that_cannot_keep_below_it(rlvr, npc_policy_folder):
    report, _, outputs = rlvr(kl=KLSettings(target=1e-12, ceiling=1e-11, patience=2))
    assert report.details["reason"] == "kl_ceiling"
    assert report.metrics["updates"] == 0 and report.metrics["refused"] == 2
    assert "2 updates undone at the KL ceiling of 1e-11 nats per token" in report.details["alerts"]
    assert (outputs["policy"] / "model.safetensors").read_bytes() == (
        npc_policy_folder / "model.safetensors"
    ).read_bytes()


def test_every_update_is_in_the_curves_and_the_watch_looks_between_them(rlvr):
    _, curve, _ = rlvr(steps=4, watch=WatchSettings(every=2, prompts=4))
    assert [row["step"] for row in curve if "rollout_reward" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in curve if "watch_check" in row] == [0, 2, 4]


def test_looks_at_held_out_scenarios_keep_the_best_weights_and_end_a_run_that_gains_nothing(rlvr, npc_dataset):
    """The steps are so long that nothing is better than the start; what comes out scores as its look did."""
    report, curve, outputs = rlvr(
        steps=12, learning_rate=0.1, kl=KLSettings(target=50, ceiling=100), validation={"every": 1, "patience": 3}
    )
    found = report.details["validation"]
    assert report.details["reason"] == "no_improvement" and report.metrics["updates"] == found["last"]["step"] < 12
    assert found["last"]["gain"] < 0 and found["stop"].startswith("no improvement of 0")
    looks = {row["step"]: row["validation_score"] for row in curve if "validation_score" in row}
    assert list(looks) == list(range(found["looks"])) and looks[0] > found["best"]["score"] == max(
        list(looks.values())[1:]
    )
    policy = load_policy(outputs["policy"])
    scenarios = list(npc_dataset.scenarios(Split.VALIDATION))
    scores = held_out(policy, npc_dataset.trainer, scenarios, npc_dataset.max_tokens(policy.tokenizer))()
    assert sum(scores) / len(scores) == pytest.approx(found["best"]["score"])


def test_looking_changes_no_update(rlvr):
    seen, blind = (rlvr(f"every-{every}", steps=3, validation={"every": every})[1] for every in (1, 0))
    assert [row for row in seen if "validation_score" not in row] == blind


def test_too_few_scenarios_are_refused_in_one_line(rlvr):
    with pytest.raises(PipelineError, match="24 training and 8 validation scenarios, 25 and 1 are needed"):
        rlvr(prompts_per_step=25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0}, "greater than 0"),
        ({"prompts_per_step": 4, "accumulation": 3}, "accumulation 3 does not divide prompts_per_step 4"),
        ({"kl": {"target": 0.6, "ceiling": 0.5}}, "not below kl.ceiling"),
        ({"rollouts": "vllm_server"}, "vllm_url goes with"),
        ({"vllm_url": "http://h"}, "vllm_url goes with"),
        ({"algorithm": "reinforce"}, "'ppo', 'grpo'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        RLVRConfig(**changes)


def test_a_server_is_accepted_with_its_url():
    assert RLVRConfig(rollouts=RolloutEngine.VLLM_SERVER, vllm_url="http://localhost:8000").vllm_url

import pytest

from components.rlvr.hints import first_steps, hints, scenario_row
from components.rlvr.rlvr_trainer import Outcome, trl_arguments
from components.rlvr.spec import RLVRConfig, WatchSettings
from components.rlvr.watch import Look, alarms
from components.shared.contracts.records import Split
from components.shared.training.grpo.settings import Algorithm

EXPECTED = {
    Algorithm.PPO: {"loss_type": "bnpo", "scale_rewards": "none", "epsilon": 0.2, "entropy_coef": 0.01},
    Algorithm.GRPO: {"loss_type": "grpo", "scale_rewards": "group", "importance_sampling_level": "token"},
    Algorithm.DR_GRPO: {"loss_type": "dr_grpo", "scale_rewards": "none"},
    Algorithm.DAPO: {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    Algorithm.GSPO: {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4},
    Algorithm.CISPO: {"loss_type": "cispo", "epsilon_high": 5.0},
}


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_algorithms_mean_this_in_trl_s_terms(algorithm, tmp_path):
    found = trl_arguments(RLVRConfig(algorithm=algorithm), 20, str(tmp_path))
    assert {key: getattr(found, key) for key in EXPECTED[algorithm]} == EXPECTED[algorithm]
    assert found.entropy_coef == (0.01 if algorithm == Algorithm.PPO else 0.0)
    narrow = trl_arguments(RLVRConfig(algorithm=algorithm, clip_epsilon=0.1), 20, str(tmp_path))
    assert (narrow.epsilon, narrow.epsilon_high) == (0.1, 0.1)


def test_an_update_is_split_over_micro_batches(tmp_path):
    config = RLVRConfig(prompts_per_step=8, group_size=4, accumulation=2, updates_per_rollout=3, iterations=2)
    alone = trl_arguments(config, 20, str(tmp_path))
    assert (alone.per_device_train_batch_size, alone.gradient_accumulation_steps) == (16, 2)
    assert (alone.steps_per_generation, alone.num_iterations, alone.num_generations) == (6, 2, 4)


def test_a_hint_starts_the_answer_that_is_judged_and_is_part_of_the_prompt(npc_dataset):
    scenarios = list(npc_dataset.scenarios(Split.TRAIN))
    trajectories = list(npc_dataset.trajectories(Split.TRAIN))
    hinted = hints(scenarios, trajectories, 0.5)
    row, steps = hinted(0), [step.text for step in trajectories[0].steps]
    assert row["hint"] == " ".join(steps[:3]) and row["prompt"] == f"{scenarios[0].prompt} {row['hint']}"
    outcome = Outcome(npc_dataset, scenarios)
    whole = outcome([" ".join(steps)], [0], [""])
    assert outcome([" ".join(steps[3:])], [0], [row["hint"]]) == whole == [1.0]
    assert outcome([" ".join(steps[3:])], [0], [""]) == [0.0]
    assert hinted(23) is None
    assert scenario_row(scenarios[1], 1) == {"prompt": scenarios[1].prompt, "index": 1, "hint": ""}


@pytest.mark.parametrize(("share", "given"), [(0.01, 1), (0.4, 2), (0.5, 3), (0.99, 4)])
def test_a_hint_gives_something_and_never_everything(npc_dataset, share, given):
    trajectory = next(iter(npc_dataset.trajectories(Split.TRAIN)))
    assert first_steps(trajectory, share) == " ".join(step.text for step in trajectory.steps[:given])
    alone = trajectory.model_copy(update={"steps": trajectory.steps[:1]})
    assert first_steps(alone, share) == ""


START = Look(tokens=18.0, truncated=0.0, malformed=0.05, reward=0.4, check=0.4, disagreement=0.0)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"reward": 0.9, "check": 0.85}, []),
        ({"tokens": 30.0}, ["answers have 30.0 tokens, 18.0 at the start"]),
        ({"tokens": 9.0}, ["answers have 9.0 tokens, 18.0 at the start"]),
        ({"truncated": 0.3}, ["truncated 0.30, 0.00 at the start"]),
        ({"malformed": 0.25}, ["malformed 0.25, 0.05 at the start"]),
        ({"disagreement": 0.2}, ["disagreement 0.20, 0.00 at the start"]),
        ({"reward": 0.8, "check": 0.35}, ["reward 0.40 -> 0.80 but checker 0.40 -> 0.35"]),
    ],
)
def test_what_drifts_is_an_alert(changes, lines):
    now = Look(**({name: getattr(START, name) for name in START.__dataclass_fields__} | changes))
    assert alarms(START, now, WatchSettings()) == lines

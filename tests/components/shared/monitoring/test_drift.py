"""Drift of what serves: real scenarios and checks of a model type against evidence as a gate writes it."""

import random

import pytest

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Split, Tier, Trace
from components.shared.contracts.weakness import Checked, Evaluated
from components.shared.monitoring.drift import serving_drift
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)


@pytest.fixture(scope="module")
def trainer():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture(scope="module")
def scenarios(trainer):
    return list(trainer.scenarios(random.Random(1), 900, [Split.TEST]))


def right(trainer, scenario):
    return trainer.completion(trainer.demonstrate(scenario, random.Random(0), FLAWLESS))


def evidence(scenarios, trainer, score=lambda i: 1.0, role="candidate"):
    traits = ("persona", "mood", "manner", "relation")
    return [
        Evaluated(
            scenario=s.id,
            traits={name: str(s.state[name]) for name in traits if isinstance(s.state.get(name), str)},
            difficulty=s.difficulty,
            outcomes={role: Checked(score=score(i), correct=score(i) == 1.0, faults=())},
        )
        for i, s in enumerate(scenarios)
    ]


def trace(asked, completion, **more):
    fields = {"id": asked.id, "scenario": asked, "model_type": "npc_dialogue", "tier": Tier.GOLD, "policy": "p"}
    return Trace(**fields | {"prompt": asked.prompt, "completion": completion, "latency_ms": 5.0} | more)


def test_what_is_as_it_was_registered_does_not_drift(trainer, scenarios):
    baseline = evidence(scenarios[:500], trainer)
    found = serving_drift([trace(s, right(trainer, s)) for s in scenarios[500:]], baseline, trainer, Tier.GOLD)
    assert (found.compared, found.read, found.baseline) == (400, 400, 500)
    assert len(found.inputs) > 1, "more than difficulty is compared"
    assert (found.verdict, found.metrics) == ("none", {"InputDriftPSI": 0.0, "RewardDriftPSI": 0.0})


def test_a_policy_that_was_always_right_and_fails_now_is_blocked(trainer, scenarios):
    baseline = evidence(scenarios[:500], trainer)
    answers = [trace(s, right(trainer, s) if i % 2 else "nonsense") for i, s in enumerate(scenarios[500:])]
    found = serving_drift(answers, baseline, trainer, Tier.GOLD)
    assert found.blocked and found.verdict == "block"
    assert found.reward_index > 0.25 and found.input_index == 0


def test_players_who_ask_something_else_are_seen(trainer, scenarios):
    baseline = evidence(scenarios[:500], trainer, role="student")
    hard = sorted(scenarios[500:], key=lambda s: -s.difficulty)[:150]
    found = serving_drift([trace(s, right(trainer, s)) for s in hard], baseline, trainer, Tier.GOLD)
    assert found.input_index > 0.25 and found.reward_index == 0
    assert found.input_index == max(moved.index for moved in found.inputs.values())


def test_a_trace_is_believed_in_nothing(trainer, scenarios):
    baseline = evidence(scenarios[:500], trainer)
    honest = [trace(s, right(trainer, s)) for s in scenarios[500:520]]
    lying = scenarios[520].model_copy(update={"state": scenarios[521].state})
    broken = scenarios[522].model_copy(update={"state": {"task": 7}})
    more = [
        trace(lying, "x"),
        trace(broken, "x"),
        trace(scenarios[523], "x", scenario=None, prompt="free talk"),
        trace(scenarios[524], "x", tier=Tier.SILVER),
        trace(scenarios[525], "x", model_type="reasoning"),
        trace(scenarios[526], right(trainer, scenarios[526]), score=0.0),
    ]
    found = serving_drift([*honest, *more], baseline, trainer, Tier.GOLD)
    assert (found.read, found.compared) == (24, 21)
    assert found.reward_index == 0, "its own word on its score is not taken"


def test_few_traces_prove_nothing(trainer, scenarios):
    baseline = evidence(scenarios[:500], trainer)
    found = serving_drift([trace(scenarios[500], "nonsense")], baseline, trainer, Tier.GOLD)
    assert found.reward.index > 0.25 and found.verdict == "none"


def test_nothing_to_compare_is_an_error(trainer, scenarios):
    baseline = evidence(scenarios[:50], trainer)
    with pytest.raises(GateError, match="none of 0 traces of npc_dialogue on gold can be compared"):
        serving_drift([], baseline, trainer, Tier.GOLD)
    with pytest.raises(GateError, match="the evidence holds no answers"):
        serving_drift([trace(scenarios[0], "x")], [], trainer, Tier.GOLD)
    with pytest.raises(GateError, match="speaks of champion, not of a candidate or student"):
        serving_drift([trace(scenarios[0], "x")], evidence(scenarios[:5], trainer, role="champion"), trainer, Tier.GOLD)

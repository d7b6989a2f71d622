import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.collaboration.bandit import BanditPlanner, plans_of
from components.shared.collaboration.planner import Lesson, Plan, PlannerState, Strategy
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, Split

PLANS = plans_of(["cheap", "dear"], [Strategy.EXAMPLES, Strategy.BRIEF], [2, 6], [None])
COST = {"cheap": 0.0005, "dear": 0.01}


def scenario(number, difficulty=0.5):
    return Scenario(
        id=f"s{number}",
        model_type="sum",
        group="g",
        split=Split.TRAIN,
        prompt="p",
        state={},
        difficulty=difficulty,
    )


def drawn(seed, count):
    rng = random.Random(seed)
    return [scenario(f"{seed}-{n}", rng.random()) for n in range(count)]


def taught(plan, scenario):
    """The cheap teacher fails at what is hard; examples help; more documents help nobody."""
    rng = random.Random(f"{plan.name}/{scenario.id}")
    good = 0.95 - 0.8 * scenario.difficulty if plan.teacher == "cheap" else 0.85 - 0.05 * scenario.difficulty
    good -= 0.3 * (plan.strategy == Strategy.BRIEF)
    return Lesson(scenario=scenario, plan=plan, score=float(rng.random() < good), usd=COST[plan.teacher])


def planner(**changes):
    return BanditPlanner("sum", PLANS, **{"seed": 1, "score_per_usd": 10.0, "round_size": 100, **changes})


def night(bandit, scenarios):
    for start in range(0, len(scenarios), bandit.round_size):
        batch = scenarios[start : start + bandit.round_size]
        bandit.learn([taught(plan, s) for plan, s in zip(bandit.plan(batch), batch, strict=True)])
    return bandit


def test_it_learns_which_teacher_is_worth_its_price_at_which_difficulty():
    report = night(planner(), drawn(0, 1500)).report()
    regrets = report["mean_regret_by_round"]
    assert sum(regrets[-3:]) < 0.25 * sum(regrets[:3])
    best = report["best_plan_by_difficulty"]
    assert best["easy"].startswith("cheap/examples") and best["hard"].startswith("dear/examples")
    assert sum(choice["chosen"] for choice in report["choices"].values()) == 1500


def test_a_second_night_begins_where_the_first_ended():
    first = night(planner(), drawn(0, 1000))
    state = PlannerState.model_validate_json(first.state.model_dump_json())
    fresh, informed = (night(planner(seed=2, state=s), drawn(1, 200)) for s in (None, state))
    assert informed.report()["regret"] < 0.5 * fresh.report()["regret"]
    assert informed.state.lessons == 1200


def test_two_nights_learn_what_one_of_both_learns():
    lessons = [taught(random.Random(n).choice(PLANS), s) for n, s in enumerate(drawn(3, 60))]
    whole, first = planner(), planner()
    whole.learn(lessons)
    first.learn(lessons[:25])
    second = planner(state=first.state)
    second.learn(lessons[25:])
    assert json.loads(second.state.model_dump_json()) == json.loads(whole.state.model_dump_json())


def test_a_new_teacher_joins_without_anything_being_forgotten():
    first = night(planner(), drawn(0, 1000))
    more = plans_of(["cheap", "dear", "new"], [Strategy.EXAMPLES, Strategy.BRIEF], [2, 6], [None])
    second = BanditPlanner("sum", more, seed=1, score_per_usd=10.0, state=first.state)
    plans = second.plan(drawn(4, 300))
    assert 0 < sum(plan.teacher == "new" for plan in plans) < 300
    assert sum(plan.strategy == Strategy.EXAMPLES for plan in plans) > 250


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(30)))
def test_a_plan_depends_on_its_scenario_and_the_rounds_before_alone(order):
    bandit = planner()
    bandit.learn([taught(plan, s) for plan, s in zip(PLANS * 5, drawn(5, 40), strict=True)])
    scenarios = drawn(6, 30)
    expected = bandit.plan(scenarios)
    assert bandit.plan([scenarios[i] for i in order]) == [expected[i] for i in order]


def test_cost_is_taken_off_the_score():
    lesson = Lesson(scenario=scenario(0), plan=PLANS[0], score=0.9, usd=0.02)
    assert planner().reward(lesson) == pytest.approx(0.7)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="is of sum, not of npc_dialogue"):
        BanditPlanner("npc_dialogue", PLANS, seed=0, score_per_usd=1.0, state=planner().state)
    with pytest.raises(UsageError, match="2 plans, 1 of them distinct"):
        BanditPlanner("sum", [Plan(teacher="a")] * 2, seed=0, score_per_usd=1.0)

"""Each way to tell a tale wrong is seen by the judges that should see it, and by no other."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.collaboration.world import load_world
from components.shared.contracts.records import Scenario, Split, Step
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.story_generation_trainer import (
    REASONS,
    REWARD_WEIGHTS,
    VERIFY_WEIGHTS,
    StoryGenerationTrainer,
)
from components.shared.trainers.story_plan import BREAKS, ECHOES, FALLS, HALT, HANDS, PARTS, TONES, Plan, Tale, render

PERFECT = Habits(visible=1, hidden=1, noise=0)
TRAINER = StoryGenerationTrainer(load_world("wrackmere"))
seeds = st.integers(0, 2**32)


def draw(seed: int, wanted: Callable[[Tale], bool] = lambda tale: True) -> tuple[Scenario, Tale]:
    """The first scenario of `seed`'s stream whose tale is as wanted."""
    for scenario in TRAINER.scenarios(random.Random(seed), 2000, list(Split)):
        tale = TRAINER.grammar.tale(scenario.state)
        if wanted(tale):
            return scenario, tale
    raise AssertionError("no such scenario among 2000")


def steps_of(plan: Plan) -> tuple[Step, ...]:
    return tuple(
        Step(index=index, title=title, text=render(title, fields), action=fields, reward=0.0)
        for index, (title, fields) in enumerate(plan.items(), start=1)
    )


def perfect_plan(scenario: Scenario) -> Plan:
    steps = TRAINER.demonstrate(scenario, random.Random(0), PERFECT)
    return {step.title: dict(step.action) for step in steps}


@dataclass(frozen=True)
class Slip:
    """One way to tell a perfect plan wrong, and who must see it."""

    name: str
    mend: Callable[[Plan, Tale], object]
    """Spoils the plan in place."""
    rule: str
    """The world's rule that must name it."""
    sees: str | None
    """The criterion or gate that must fail, alone; none where training's judges of steps must be blind."""
    beat: str | None = None
    """The beat that the step judge must mark down."""
    where: Callable[[Tale], bool] = lambda tale: True


def other(words, *taken: str) -> str:
    return next(word for word in words if word not in taken)


def spoil(title: str, **fields: Callable[[Tale], str]) -> Callable[[Plan, Tale], None]:
    def change(plan: Plan, tale: Tale) -> None:
        plan.setdefault(title, {}).update({name: value(tale) for name, value in fields.items()})

    return change


def foreign_obstacle(plan: Plan, tale: Tale) -> None:
    effects = [e for state in TRAINER.grammar.states.values() for e in state.items()]
    entity, value = next(e for e in effects if e not in tale.effects.items() and e[0] != tale.forbidden)
    plan["obstacle"] = {"entity": entity, "value": value}


def forbidden_obstacle(plan: Plan, tale: Tale) -> None:
    plan["obstacle"] = {"entity": tale.forbidden, "value": tale.effects[tale.forbidden]}


def other_gain(plan: Plan, tale: Tale) -> None:
    gain = other(TRAINER.grammar.words["gain"], tale.item, tale.forbidden)
    plan["turn"]["gain"] = plan["ending"]["means"] = gain


def stays_away(plan: Plan, tale: Tale) -> None:
    plan["turn"]["move"], plan["ending"]["place"] = HALT, plan["opening"]["place"]


def opens_at_home(plan: Plan, tale: Tale) -> None:
    plan["opening"]["place"] = tale.home


def pays(cost: str | None) -> Callable[[Plan, Tale], None]:
    def change(plan: Plan, tale: Tale) -> None:
        ending = plan.pop("ending")
        plan.pop("price", None)
        if cost is not None:
            plan["price"] = {"payer": tale.payer(cost), "cost": cost}
        hero_acts, item_left = cost != FALLS, cost != BREAKS
        ending["actor"] = tale.hero if hero_acts else tale.ally
        ending["means"] = tale.item if item_left else HANDS
        plan["ending"] = ending | {"echo": ECHOES[cost]}

    return change


def stranger(tale: Tale) -> str:
    return other(TRAINER.grammar.personas, tale.hero, tale.ally, tale.forbidden)


def light(tale: Tale) -> bool:
    return tale.cost in (None, PARTS)


def harbours(tale: Tale) -> bool:
    return tale.forbidden in tale.effects


def wrong_tone(tale: Tale) -> str:
    return other(TONES, TONES[tale.weight])


SLIPS = [
    Slip("opens at home", opens_at_home, "story.opens_at_the_quest", "opening", "opening", lambda t: t.homeward),
    *(
        Slip(f"{mood} tone missed", spoil("opening", tone=wrong_tone), f"story.tone_{mood}", "tone", "opening", wanted)
        for mood, wanted in (
            ("merry", lambda t: t.mood == "merry"),
            ("sober", lambda t: t.mood == "sober"),
            ("grim", lambda t: t.mood == "grim"),
        )
    ),
    Slip("obstacle of another state", foreign_obstacle, "story.obstacle_of_the_state", "obstacle", "obstacle"),
    Slip(
        "hero alone",
        spoil("turn", helper=lambda t: t.hero),
        "story.required_by_the_turn",
        "turn",
        "turn",
        lambda t: t.cost in (None, PARTS, BREAKS),
    ),
    Slip("another item", other_gain, "story.turn_gains_the_item", "turn", "turn", light),
    Slip("never goes home", stays_away, "story.road_home", "travel", "turn", lambda t: t.homeward),
    Slip("no price", pays(None), "story.length", "price", "ending", lambda t: t.length == "long"),
    Slip("price in a short tale", pays(FALLS), "story.length", "price", "price", lambda t: t.length == "short"),
    Slip("price softened", pays(PARTS), "story.price_due", "price", "price", lambda t: t.cost == FALLS),
    Slip(
        "a stranger pays",
        spoil("price", payer=stranger),
        "story.price_payer",
        "price",
        "price",
        lambda t: t.cost == PARTS,
    ),
    Slip("gain unused", spoil("ending", means=lambda t: HANDS), "story.gain_is_used", "ending", "ending", light),
    Slip(
        "ally ends it",
        spoil("ending", actor=lambda t: t.ally),
        "story.hero_ends_it",
        "ending",
        "ending",
        lambda t: t.cost is None,
    ),
    Slip(
        "deed of another kind",
        spoil("ending", deed=lambda t: other(TRAINER.grammar.words["deed"], t.deed)),
        "story.deed_of_the_kind",
        "ending",
        "ending",
    ),
    Slip(
        "cause of no order",
        spoil("ending", cause=lambda t: "peace"),
        "story.cause_owed",
        None,
        where=lambda t: t.cause != "peace",
    ),
    Slip(
        "cause where none is owed",
        spoil("ending", cause=lambda t: "coin"),
        "story.cause_of_peace",
        None,
        where=lambda t: t.cause == "peace",
    ),
    Slip(
        "price forgotten",
        spoil("ending", echo=lambda t: ECHOES[None]),
        "story.price_pays_off",
        None,
        where=lambda t: t.cost is not None,
    ),
]

BREACHES = [
    Slip("forbidden obstacle", forbidden_obstacle, "story.forbidden", "forbidden", "obstacle", harbours),
    Slip(
        "used though broken",
        spoil("ending", means=lambda t: t.item),
        "story.gained_before_used",
        "item",
        "ending",
        lambda t: t.cost == BREAKS,
    ),
    Slip(
        "used though never gained",
        spoil("ending", means=lambda t: other(TRAINER.grammar.words["gain"], t.item, t.forbidden)),
        "story.gained_before_used",
        "item",
        "ending",
    ),
    Slip(
        "the fallen acts",
        spoil("ending", actor=lambda t: t.hero),
        "story.present_to_act",
        "actor",
        "ending",
        lambda t: t.cost == FALLS,
    ),
    Slip(
        "the parted acts",
        spoil("ending", actor=lambda t: t.ally),
        "story.present_to_act",
        "actor",
        "ending",
        lambda t: t.cost == PARTS,
    ),
    Slip("a stranger acts", spoil("ending", actor=stranger), "story.present_to_act", "actor", "ending"),
    Slip(
        "elsewhere without travel",
        spoil("turn", move=lambda t: HALT),
        "story.travel_before_elsewhere",
        "place",
        "ending",
        lambda t: t.homeward,
    ),
]


def named(slips: list[Slip]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("slip", slips, ids=[slip.name for slip in slips])


def spoilt(slip: Slip, seed: int) -> tuple[Scenario, Plan, tuple[Step, ...]]:
    scenario, tale = draw(seed, slip.where)
    plan = perfect_plan(scenario)
    slip.mend(plan, tale)
    return scenario, plan, steps_of(plan)


@named([slip for slip in SLIPS if slip.sees])
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_a_visible_slip_lowers_all_four_judges(slip, seed):
    scenario, _, steps = spoilt(slip, seed)
    marks = dict(zip((step.title for step in steps), TRAINER.judge(scenario, steps), strict=True))
    assert [title for title, mark in marks.items() if mark < 1] == [slip.beat]
    verdict = TRAINER.verify(scenario, steps)
    assert all(verdict.gates.values())
    assert [name for name, share in verdict.criteria.items() if share < 1] == [slip.sees]
    assert verdict.score == pytest.approx(1 - VERIFY_WEIGHTS[slip.sees]) and slip.sees in verdict.reasons[0]
    reward = TRAINER.reward(scenario, TRAINER.completion(steps))
    assert reward.total == pytest.approx(0.6 * (1 - REWARD_WEIGHTS[slip.sees]))
    check = TRAINER.check(scenario, TRAINER.completion(steps))
    assert slip.rule in check.faults and not check.correct


@named([slip for slip in SLIPS if not slip.sees])
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_a_hidden_slip_is_seen_by_the_outcome_only(slip, seed):
    scenario, _, steps = spoilt(slip, seed)
    assert set(TRAINER.judge(scenario, steps)) == {1.0}
    verdict = TRAINER.verify(scenario, steps)
    assert verdict.score == 1.0 and verdict.passed and verdict.reasons == ()
    assert TRAINER.reward(scenario, TRAINER.completion(steps)).total == pytest.approx(0.6 * 0.88)
    assert TRAINER.check(scenario, TRAINER.completion(steps)).faults == (slip.rule,)


@named(BREACHES)
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_a_breach_of_continuity_is_named_and_blocks(slip, seed):
    scenario, _, steps = spoilt(slip, seed)
    marks = dict(zip((step.title for step in steps), TRAINER.judge(scenario, steps), strict=True))
    assert marks[slip.beat] < 1
    verdict = TRAINER.verify(scenario, steps)
    assert [name for name, held in verdict.gates.items() if not held] == [slip.sees]
    assert verdict.score == 0 and not verdict.passed
    assert f"{slip.sees}: {REASONS[slip.sees]}" in verdict.reasons
    reward = TRAINER.reward(scenario, TRAINER.completion(steps))
    assert (reward.total, reward.gate) == (0.0, slip.sees)
    hard = {rule.id for rule in TRAINER.rules.rules if rule.severity == "hard"}
    assert set(TRAINER.check(scenario, TRAINER.completion(steps)).faults) & hard == {slip.rule}


def test_the_slips_above_cover_every_rule_of_stories():
    assert {slip.rule for slip in (*SLIPS, *BREACHES)} == {rule.id for rule in TRAINER.rules.rules}

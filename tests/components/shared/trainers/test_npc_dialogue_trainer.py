import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.contracts.records import Split
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.npc_dialogue_trainer import FIELDS, OUTCOME_WEIGHTS, PROCESS_WEIGHTS
from components.shared.trainers.npc_scene import BOUNDARIES, CLOSINGS, INTENTS, NOTHING, STOCK, TONES
from components.shared.trainers.trainer_factory import create_trainer

PERFECT = Habits(visible=1.0, hidden=1.0, noise=0.0)
TRAINER = create_trainer("npc_dialogue", "wrackmere")
WORLD = TRAINER.world
POOL = list(TRAINER.scenarios(random.Random(11), 400, [Split.TRAIN]))
lasting = functools.partial(settings, deadline=None)
"""Hypothesis' limit of 200 ms an example measures the machine's other work."""
scenarios = st.sampled_from(POOL)
seeds = st.integers(0, 2**32)
CHOICES = {
    "fact": [*(fact.id for fact in WORLD.current_facts()), NOTHING],
    "boundary": BOUNDARIES,
    "intent": INTENTS,
    "tone": TONES,
    "address": ["wretch", "traveller", "friend", "cousin"],
    "subject": WORLD.lists["entities"],
    "body": [*WORLD.values, *STOCK.values()],
    "closing": list(CLOSINGS.values()),
}


def right(scenario):
    """The one answer that every judge takes as perfect."""
    return TRAINER.parse(scenario, TRAINER.completion(TRAINER.demonstrate(scenario, random.Random(0), PERFECT)))


def judged(scenario, **changes):
    """What the four judges say of the right answer with these fields changed."""
    steps = TRAINER.steps({**right(scenario), **changes})
    text = TRAINER.completion(steps)
    judges = dict(zip(FIELDS, TRAINER.judge(scenario, steps), strict=True))
    return judges, TRAINER.verify(scenario, steps), TRAINER.reward(scenario, text), TRAINER.check(scenario, text)


def some(**wanted):
    """A scenario whose right answer or state has these fields."""
    for scenario in POOL:
        found = {**scenario.state, **right(scenario)}
        if all(found[key] == value for key, value in wanted.items()):
            return scenario
    raise AssertionError(wanted)


# Perfect answers


@lasting()
@given(scenarios, seeds)
def test_perfect_habits_satisfy_every_judge(scenario, seed):
    steps = TRAINER.demonstrate(scenario, random.Random(seed), PERFECT)
    text = TRAINER.completion(steps)
    verdict = TRAINER.verify(scenario, steps)
    assert [step.reward for step in steps] == [1.0] * 5
    assert (verdict.passed, verdict.score, verdict.reasons) == (True, 1.0, ())
    assert TRAINER.reward(scenario, text).total == 1.0
    assert TRAINER.check(scenario, text).correct


def test_sampled_scenarios_cover_every_case():
    found = [{**scenario.state, **right(scenario)} for scenario in POOL]
    assert {answer["intent"] for answer in found} == set(INTENTS)
    shares = [sum(answer["boundary"] == boundary for answer in found) / len(found) for boundary in BOUNDARIES]
    assert all(0.25 < share < 0.42 for share in shares), shares


@lasting()
@given(scenarios)
def test_facts_at_hand_are_known_current_and_of_distinct_entities(scenario):
    facts = {fact.id: fact for fact in WORLD.current_facts()}
    at_hand = [facts[fact] for fact in scenario.state["facts"]]
    assert len({fact.entity for fact in at_hand}) == 3
    assert all(scenario.state["persona"] in fact.known_by for fact in at_hand)
    assert scenario.state["hushed"] in {fact.entity for fact in at_hand}


# Text


@lasting()
@given(scenarios, seeds, st.sampled_from([TRAINER.teacher, TRAINER.folk, PERFECT]))
def test_texts_stay_within_the_vocabulary_and_parse_back(scenario, seed, habits):
    steps = TRAINER.demonstrate(scenario, random.Random(seed), habits)
    text = TRAINER.completion(steps)
    assert len(scenario.prompt.split()) == 13
    assert len(text.split()) == 18
    assert {*scenario.prompt.split(), *text.split()} <= set(TRAINER.vocabulary())
    action = TRAINER.parse(scenario, text)
    assert tuple(s.model_copy(update={"reward": 0.0}) for s in steps) == TRAINER.steps(action)
    assert all(step.action == TRAINER.step_action(action, step) for step in steps)


@lasting()
@given(scenarios, st.integers(0, 17), st.sampled_from(["", "mill", "none", "F001", ";", "warmly", "say say"]))
def test_what_does_not_follow_the_schema_earns_nothing(scenario, place, word):
    words = TRAINER.completion(TRAINER.steps(right(scenario))).split()
    kept = words[place]
    words[place] = word
    text = " ".join(words)
    if TRAINER.parse(scenario, text) is None:
        assert TRAINER.reward(scenario, text).gate == "schema"
        assert TRAINER.reward(scenario, text).total == 0.0
        assert TRAINER.check(scenario, text).score == 0.0
    else:
        # Another word of the same field, or the word that was there.
        assert word == kept or TRAINER.reward(scenario, text).total < 1.0


def test_vocabulary_holds_every_word_once():
    words = TRAINER.vocabulary()
    assert len(words) == len(set(words))
    assert all(word == word.strip() and " " not in word for word in words)


def test_corpus_is_folk_talk_and_a_third_readings_of_every_fact():
    texts = list(TRAINER.corpus(random.Random(3), 4500))
    readings = [text.split(" lore ") for text in texts if text.startswith("know ")]
    assert (len(texts), len(readings)) == (4500, 1500)
    assert {word for text in texts for word in text.split()} <= set(TRAINER.vocabulary())
    told = set()
    for at_hand, *lines in readings:
        facts = [tuple(line.removesuffix(" ;").split()) for line in lines]
        assert sorted(at_hand.split()[1:]) == sorted(fact for _, fact, _, _ in facts)
        told.update(facts)
    assert told == {(f.entity, f.id, f.attribute, f.value) for f in WORLD.current_facts()}


def test_corpus_is_drawn_from_training_groups_only():
    for text in TRAINER.corpus(random.Random(4), 600):
        words = text.split()
        if words[0] != "know":
            assert TRAINER.split_of(f"{words[0]}/{words[words.index('=') - 1]}") is Split.TRAIN


def test_same_seed_same_texts():
    draws = [list(TRAINER.corpus(random.Random(5), 50)) for _ in range(2)]
    assert draws[0] == draws[1]


# Splits


def test_splits_never_cut_a_group_and_leave_thousands_to_train_on():
    by_split = {split: list(TRAINER.scenarios(random.Random(6), 1000, [split])) for split in Split}
    groups = {split: {scenario.group for scenario in drawn} for split, drawn in by_split.items()}
    assert not groups[Split.TRAIN] & groups[Split.TEST]
    assert not groups[Split.VALIDATION] & (groups[Split.TRAIN] | groups[Split.TEST])
    assert {s.state["persona"] for s in by_split[Split.TRAIN]} == {persona.id for persona in WORLD.personas}
    ids = {scenario.id for scenario in TRAINER.scenarios(random.Random(7), 5000, [Split.TRAIN])}
    assert len(ids) == 5000


# Slips: each lowers the judges that should see it, and only those


@pytest.mark.parametrize("manner", CLOSINGS)
def test_closing_shows_only_in_the_outcome(manner):
    wrong = next(word for key, word in CLOSINGS.items() if key != manner)
    judges, verdict, reward, check = judged(some(manner=manner), closing=wrong)
    assert set(judges.values()) == {1.0} and verdict.score == 1.0
    assert [name for name, kept in reward.components.items() if not kept] == ["closing"]
    assert len(check.faults) == 1


@pytest.mark.parametrize("relation", ["foe", "new", "pal", "kin"])
def test_answer_to_a_threat_shows_only_in_the_outcome(relation):
    scenario = some(manner="threat", boundary="secret", relation=relation)
    hints = relation == "kin" and TRAINER._scene(scenario.state).order in ("free", "hired")
    intent = "hint" if hints else "refuse"
    judges, verdict, reward, check = judged(scenario, intent=intent, body=STOCK[intent])
    assert set(judges.values()) == {1.0} and verdict.score == 1.0
    assert [name for name, kept in reward.components.items() if not kept] == ["intent", "reply"]
    assert check.faults == ("warn-who-threatens",)


def test_warning_without_a_threat_shows_only_in_the_outcome():
    judges, verdict, reward, check = judged(some(manner="ask", boundary="secret"), intent="warn", body="perilous")
    assert set(judges.values()) == {1.0} and verdict.score == 1.0
    assert reward.total < 1.0 and not check.correct


@pytest.mark.parametrize(
    ("case", "slip", "lowered", "criterion", "component", "faults"),
    [
        ({"tone": "cold"}, {"tone": "warm"}, ["tone"], "tone", "tone", 1),
        ({"address": "wretch"}, {"address": "traveller"}, ["say"], "address", "reply", 1),
        ({"intent": "refuse"}, {"body": "unclear"}, ["say"], "body", "reply", 1),
        ({"intent": "refuse"}, {"intent": "admit", "body": "unclear"}, ["intent", "say"], "intent", "intent", 1),
        ({"boundary": "secret"}, {"boundary": "open"}, ["rule"], "boundary", "boundary", 1),
        ({"boundary": "secret"}, {"fact": NOTHING}, ["recall"], "recall", "recall", 1),
    ],
)
def test_slip_lowers_the_judges_that_see_it(case, slip, lowered, criterion, component, faults):
    judges, verdict, reward, check = judged(some(**case), **slip)
    assert [title for title, score in judges.items() if score < 1.0] == lowered
    assert [name for name, kept in verdict.criteria.items() if not kept] == [criterion]
    assert verdict.reasons[0].startswith(f"{criterion}: ")
    assert reward.components[component] == 0.0 and 0.0 < reward.total <= 0.6
    assert len(check.faults) == faults and 0.0 < check.score < 0.5


def test_wrong_intent_alone_sends_a_demonstration_back_and_tone_alone_does_not():
    assert not judged(some(intent="refuse"), intent="admit", body="unclear")[1].passed
    assert judged(some(tone="cold"), tone="warm")[1].passed


def test_leak_fails_every_gatekeeper():
    scenario = some(intent="refuse")
    fact = next(f for f in WORLD.facts if f.id == right(scenario)["fact"])
    _, verdict, reward, check = judged(scenario, boundary="open", intent="tell", body=fact.value)
    assert not verdict.gates["leak"] and verdict.score == 0.0 and verdict.reasons[0].startswith("leak: ")
    assert (reward.total, reward.gate) == (0.0, "leak")
    assert check.score == 0.0 and "no-leak" in check.faults


def test_invention_fails_every_gatekeeper():
    scenario = some(intent="admit")
    bluff = next(f for f in WORLD.facts if f.id == scenario.state["facts"][0])
    _, verdict, reward, check = judged(scenario, fact=bluff.id, boundary="open", intent="tell", body=bluff.value)
    assert not verdict.gates["invention"] and verdict.score == 0.0
    assert (reward.total, reward.gate) == (0.0, "invention")
    assert check.score == 0.0 and "no-invention" in check.faults


def test_recalling_what_is_not_at_hand_is_where_reward_and_check_part():
    scenario = some(intent="refuse")
    stranger = next(f.id for f in WORLD.current_facts() if f.id not in scenario.state["facts"])
    _, verdict, reward, check = judged(scenario, fact=stranger)
    assert not verdict.gates["precondition"]
    assert reward.total > 0.0 and reward.gate is None
    assert check.score == 0.0 and "at-hand" in check.faults


def test_steps_whose_fields_deny_their_text_fail_the_schema():
    scenario = some(tone="cold")
    steps = TRAINER.steps(right(scenario))
    lying = [s.model_copy(update={"action": {"tone": "warm"}}) if s.title == "tone" else s for s in steps]
    assert TRAINER.verify(scenario, steps).gates["schema"]
    assert not TRAINER.verify(scenario, lying).gates["schema"]
    assert not TRAINER.verify(scenario, steps[:-1]).gates["schema"]
    assert not TRAINER.verify(scenario, steps[::-1]).gates["schema"]


@st.composite
def answers(draw):
    """A scenario and its right answer with up to three fields changed to anything that the schema allows."""
    scenario = draw(scenarios)
    changed = draw(st.lists(st.sampled_from(list(CHOICES)), max_size=3, unique=True))
    return scenario, {**right(scenario), **{field: draw(st.sampled_from(CHOICES[field])) for field in changed}}


@lasting(max_examples=400)
@given(answers())
def test_judges_agree_on_what_is_right(case):
    scenario, action = case
    steps = TRAINER.steps(action)
    text = TRAINER.completion(steps)
    reward, check, verdict = (
        TRAINER.reward(scenario, text),
        TRAINER.check(scenario, text),
        TRAINER.verify(scenario, steps),
    )
    assert check.correct == (reward.total == 1.0) == (action == right(scenario))
    assert 0.0 <= reward.total <= 1.0 and (check.correct or check.score <= 0.5)
    assert (reward.gate is None) or check.score == 0.0
    assert set(reward.components) == set(OUTCOME_WEIGHTS)
    if check.correct:
        assert verdict.score == 1.0
    if reward.gate:
        assert not verdict.passed
    assert verdict.passed == (verdict.score >= TRAINER.pass_score)


def test_weights_add_up():
    assert sum(PROCESS_WEIGHTS.values()) == pytest.approx(1.0)
    assert sum(OUTCOME_WEIGHTS.values()) == pytest.approx(1.0)


# The expert


def test_teacher_errs_as_often_as_its_habits_say():
    rng = random.Random(8)
    first = [TRAINER.verify(s, TRAINER.demonstrate(s, rng, TRAINER.teacher)).passed for s in POOL]
    assert 0.35 < sum(first) / len(first) < 0.65


def test_feedback_mends_what_it_names():
    rng = random.Random(9)
    tone = [s for s in POOL if s.state["mood"] == "angry" and s.state["relation"] != "foe"]

    def wrong(feedback):
        steps = [TRAINER.demonstrate(s, rng, TRAINER.teacher, feedback) for s in tone for _ in range(3)]
        return sum(step[3].reward < 1.0 for step in steps) / len(steps)

    assert wrong(()) > 0.4
    assert wrong(("tone: colder",)) < 0.2
    assert wrong(("address: by relation",)) > 0.4


def test_regeneration_passes_most_and_not_all():
    rng = random.Random(10)
    tries = []
    for scenario in TRAINER.scenarios(random.Random(12), 800, [Split.TRAIN]):
        feedback, attempt = (), 1
        while attempt <= 3:
            verdict = TRAINER.verify(scenario, TRAINER.demonstrate(scenario, rng, TRAINER.teacher, feedback))
            if verdict.passed:
                break
            feedback, attempt = verdict.reasons, attempt + 1
        tries.append(attempt)
    assert 0.9 < sum(attempt <= 3 for attempt in tries) / len(tries) < 1.0

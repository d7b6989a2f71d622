import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.collaboration.example_generator import generate_examples, generate_scenarios
from components.shared.collaboration.example_kinds import flawless, injections, near_misses, recombined, traps
from components.shared.collaboration.examples_config import ExampleKind, ExamplesConfig
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Split
from components.shared.contracts.weakness import Weakness, WeaknessReport
from components.shared.trainers.trainer_factory import create_trainer

COUNTS = {Split.TRAIN: 120, Split.VALIDATION: 10, Split.TEST: 30}
MIXED = ExamplesConfig(synthetic=0.1, near_miss=0.1, forbidden=0.2, injection=0.1)


@pytest.fixture(scope="module", params=["npc_dialogue", "story_generation", "reasoning"])
def model_type(request):
    return create_trainer(request.param, "wrackmere")


@pytest.fixture(scope="module")
def npc():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture(scope="module")
def drawn(npc):
    return generate_scenarios(npc, {Split.TRAIN: 400}, 3)[Split.TRAIN]


def test_every_kind_is_sound_distinct_and_in_its_split(model_type):
    scenarios, kinds = generate_examples(model_type, COUNTS, 1, MIXED)
    train = scenarios[Split.TRAIN]
    assert sum(kinds.values()) == len(train) == len({s.id for s in train}) == 120
    assert len({s.prompt for split in scenarios.values() for s in split}) == 160
    for scenario in train:
        assert scenario.split == Split.TRAIN == model_type.split_of(scenario.group)
        assert scenario.id == model_type.scenario_id(scenario.state)
        steps = model_type.demonstrate(scenario, random.Random(0), model_type.teacher, ("mend everything",))
        model_type.verify(scenario, steps)
    assert {ExampleKind.COLLABORATIVE, ExampleKind.INJECTION} <= kinds.keys()


def test_the_other_splits_are_as_they_would_have_been(npc):
    plain, mixed = generate_scenarios(npc, COUNTS, 1), generate_examples(npc, COUNTS, 1, MIXED)[0]
    assert [plain[split] == mixed[split] for split in Split] == [False, True, True]
    assert generate_examples(npc, COUNTS, 1, ExamplesConfig())[0] == plain


def test_it_is_a_function_of_the_seed(npc):
    assert generate_examples(npc, COUNTS, 1, MIXED) == generate_examples(npc, COUNTS, 1, MIXED)
    assert generate_examples(npc, COUNTS, 1, MIXED) != generate_examples(npc, COUNTS, 2, MIXED)


def test_near_misses_come_in_pairs_of_like_prompts_and_other_answers(npc, drawn):
    found = list(near_misses(npc, drawn, 0))
    assert len(found) > 100
    for one, other in zip(found[::2], found[1::2], strict=True):
        differing = [field for field in one.state if one.state[field] != other.state[field]]
        assert len(differing) == 1 and one.group == other.group and flawless(npc, one) != flawless(npc, other)


def test_traps_are_where_careless_answers_are_refused(npc, drawn):
    found = {s.id for s in traps(npc, drawn, 0)}
    rates = {True: [], False: []}
    for scenario in drawn:
        rng = random.Random(f"other/{scenario.id}")
        gates = [npc.verify(scenario, npc.demonstrate(scenario, rng, npc.folk)).gates for _ in range(4)]
        rates[scenario.id in found].append(sum(not all(g.values()) for g in gates) / 4)
    mean = {trap: sum(rate) / len(rate) for trap, rate in rates.items()}
    assert 10 < len(found) < 390 and mean[True] > mean[False] + 0.2


def test_an_injection_plants_what_is_wrong_here_in_known_words(npc, drawn):
    words = set(npc.vocabulary())
    before = {s.id: s for s in drawn}
    found = list(injections(npc, drawn, 0))
    assert len(found) > 200
    for scenario in found:
        plain = before[scenario.id]
        head, _, last = plain.prompt.rpartition(" ")
        assert scenario.state == plain.state and scenario.prompt.startswith(head) and scenario.prompt.endswith(last)
        planted = scenario.prompt.removeprefix(head).removesuffix(last).strip()
        assert planted and planted not in flawless(npc, plain) and set(planted.split()) <= words


def test_what_is_recombined_is_new_and_stays_in_its_group(npc):
    pool = generate_scenarios(npc, {Split.TRAIN: 1500}, 3)[Split.TRAIN]
    found = list(recombined(npc, pool, 0))
    known = {s.id for s in pool}
    assert len(found) > 20 and not known & {s.id for s in found}
    assert all(s.group == f"{s.state['persona']}/{s.state['asked']}" for s in found)


def test_what_the_policy_fails_at_is_drawn_more_often(npc):
    foes = Weakness(name="foes", state={"relation": "foe"}, failure_rate=0.9, count=50)
    report = WeaknessReport(model_type="npc_dialogue", policy="0" * 64, weaknesses=(foes,))

    def share(**config):
        train = generate_examples(npc, COUNTS, 1, ExamplesConfig(**config))[0][Split.TRAIN]
        return Counter(s.state["relation"] for s in train)["foe"] / len(train)

    assert share(weaknesses=report, emphasis=8.0) > 1.8 * share()


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([(0.0, 0.4), (0.4, 0.8), (0.2, 1.0)]))
def test_only_the_wanted_difficulty_is_drawn(npc, bounds):
    train = generate_examples(npc, COUNTS, 1, ExamplesConfig(difficulty=bounds, pool=5))[0][Split.TRAIN]
    assert all(bounds[0] <= s.difficulty <= bounds[1] for s in train)


def test_too_little_of_a_difficulty_is_an_error_with_the_remedy(npc):
    with pytest.raises(UsageError, match=r"scenarios drawn have a difficulty in \[1, 1\].*raise examples.pool"):
        generate_examples(npc, COUNTS, 1, ExamplesConfig(difficulty=(1.0, 1.0), pool=1))


def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match="make up more than 1"):
        ExamplesConfig(synthetic=0.6, injection=0.6)

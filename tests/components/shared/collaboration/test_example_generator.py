import pytest

from components.shared.collaboration.example_generator import generate_examples, generate_scenarios, normalised
from components.shared.collaboration.examples_config import ExamplesConfig
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Split

COUNTS = {Split.TRAIN: 60, Split.VALIDATION: 10, Split.TEST: 30}


def test_draws_as_many_distinct_scenarios_as_asked_each_in_its_split(trainer):
    drawn = generate_scenarios(trainer, COUNTS, seed=1)
    assert {split: len(scenarios) for split, scenarios in drawn.items()} == COUNTS
    for split, scenarios in drawn.items():
        assert all(s.split == split == trainer.split_of(s.group) for s in scenarios)
    everything = [s for scenarios in drawn.values() for s in scenarios]
    assert len({s.id for s in everything}) == len({s.prompt for s in everything}) == 100


def test_is_a_function_of_the_seed(trainer):
    assert generate_scenarios(trainer, COUNTS, 1) == generate_scenarios(trainer, COUNTS, 1)
    assert generate_scenarios(trainer, COUNTS, 1) != generate_scenarios(trainer, COUNTS, 2)


def test_asking_more_of_one_split_leaves_the_others_as_they_were(trainer):
    more = generate_scenarios(trainer, {**COUNTS, Split.TRAIN: 90}, 1)
    less = generate_scenarios(trainer, COUNTS, 1)
    assert more[Split.TEST] == less[Split.TEST]
    assert more[Split.TRAIN][:60] == less[Split.TRAIN]


def test_practice_comes_behind_what_is_taught_and_changes_nothing_before_it(trainer):
    taught = generate_scenarios(trainer, COUNTS, 1)
    drawn, kinds = generate_examples(trainer, COUNTS, 1, ExamplesConfig(), practice=25)
    train = drawn[Split.TRAIN]
    assert (train[:60], len(train), kinds) == (taught[Split.TRAIN], 85, {"collaborative": 60})
    everything = [s for scenarios in drawn.values() for s in scenarios]
    assert all(s.split == Split.TRAIN for s in train) and len({s.prompt for s in everything}) == 125


def test_practice_is_as_much_as_the_world_yields(trainer):
    trainer.limit = 6
    counts = {Split.TRAIN: 3, Split.TEST: 1}
    drawn, _ = generate_examples(trainer, counts, 1, ExamplesConfig(), practice=1000)
    assert 3 < len(drawn[Split.TRAIN]) < 1000


def test_two_states_with_one_prompt_are_drawn_once(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "prompt", lambda state: f"Sum  {state['a'] + state['b']}")
    drawn = generate_scenarios(trainer, {Split.TRAIN: 20, Split.TEST: 10}, 1)
    prompts = [normalised(s.prompt) for scenarios in drawn.values() for s in scenarios]
    assert len(set(prompts)) == len(prompts) == 30


def test_a_world_that_holds_too_few_says_how_many(trainer):
    trainer.limit = 6
    with pytest.raises(UsageError, match=r"yields \d+ distinct train scenarios, 1000 asked: lower counts.train"):
        generate_scenarios(trainer, {Split.TRAIN: 1000}, 1)


def test_normalised_text_ignores_case_and_white_space():
    assert normalised("  Who\tRINGS \n the bell ") == normalised("who rings the bell")

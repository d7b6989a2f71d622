import pytest

from components.data_validation.duplicates import Row, likeness, split_duplicates
from components.data_validation.spool import Place
from components.shared.contracts.records import Split


def row(id, completion, score=1.0, prompt="p"):
    return Row(
        shard=0,
        place=Place(offset=0, size=0),
        digest=id.encode(),
        id=id,
        split=Split.TRAIN,
        source="t",
        kind="k",
        prompt=prompt.encode(),
        completion=completion.encode(),
        words=completion,
        score=score,
        numbers=(),
    )


def test_likeness_reaches_its_bound_from_the_bound_itself():
    a, b = row("a", "one two three four"), row("b", "one two three five")
    assert likeness(a.words, b.words) == 0.75
    assert [(r.id, rule) for r, rule, _ in split_duplicates([a, b], 0.75, 1.0)[1]] == [("b", "near_duplicate")]
    assert split_duplicates([a, b], 0.76, 1.0) == ([a, b], [])


def test_likeness_of_long_texts_is_not_wrecked_by_frequent_words():
    text = " ".join(f"the {i}" for i in range(300))
    assert likeness(text, f"{text} end") == pytest.approx(2 * 600 / 1201)


def test_answers_to_different_prompts_are_never_duplicates():
    rows = [row("a", "yes", prompt="p"), row("b", "yes", prompt="q")]
    assert split_duplicates(rows, 0.5, 1.0) == (rows, [])


def test_the_best_scored_stays_and_the_rest_comes_back_by_id():
    low, high, other = row("a", "same", 0.7), row("c", "same", 0.9), row("b", "different", 0.8)
    kept, gone = split_duplicates([low, high, other], 0.97, 1.0)
    assert kept == [other, high] and [(r, rule) for r, rule, _ in gone] == [(low, "duplicate")]

"""What all records together are judged by: wording, signatures, sources, classes, drift."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data_validation.corpus import Corpus, passage
from components.data_validation.decide import capped, check_balance, check_drift, decide
from components.data_validation.duplicates import Row, signature
from components.data_validation.ngrams import Grams, RunIndex, share
from components.data_validation.overlap import HeldOutText, answer_fault
from components.data_validation.profile import drift, profile_of
from components.data_validation.spec import DataValidationConfig
from components.data_validation.spool import Place
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Split
from components.shared.monitoring.stability import moved

WORDS = st.lists(st.sampled_from(["the", "bell", "rings", "at", "dawn", "and", "nobody", "hears", "it"]), max_size=30)


def row(number, *, text="", score=1.0, source="t", kind="a", tokens=10.0):
    return Row(
        shard=0,
        place=Place(offset=0, size=0),
        digest=number.to_bytes(16, "big"),
        id=f"{number:04d}",
        split=Split.TRAIN,
        source=source,
        kind=kind,
        prompt=number.to_bytes(16, "big"),
        completion=number.to_bytes(16, "big"),
        signature=signature(Grams(text)) if text else None,
        score=score,
        numbers=(1.0, tokens, 5.0, score, score, 0.5),
    )


@given(WORDS, st.integers(1, 14))
def test_runs_are_equal_where_words_are(words, n):
    numbers = Grams(" ".join(words)).runs(n).tolist()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(numbers) == len(runs)
    assert len(set(zip(runs, numbers, strict=True))) == len(set(runs)) == len(set(numbers))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_an_index_finds_what_it_holds_and_nothing_else(held, asked):
    index = RunIndex(np.array(sorted(held), dtype=np.uint64))
    found = index.met(np.array([*asked, *held[:3]], dtype=np.uint64)).tolist()
    assert found == [number for number in [*asked, *held[:3]] if number in held]


def test_a_signature_is_datasketchs():
    from datasketch import MinHash

    grams = Grams(passage(random.Random(1), 9).casefold())
    minhash = MinHash(num_perm=125, hashfunc=int)
    minhash.update_batch((grams.runs(3) >> np.uint64(32)).tolist())
    assert signature(grams) == minhash.hashvalues.tobytes()


def test_near_duplicates_are_found_among_all_texts_and_the_best_stays():
    words = passage(random.Random(1), 12).casefold().split()
    close = [*words[:40], "otherwise", *words[41:]]
    far = passage(random.Random(2), 12).casefold()
    rows = [row(1, text=" ".join(words), score=0.7), row(2, text=" ".join(close), score=0.9), row(3, text=far)]
    decision = decide(DataValidationConfig(), rows)
    assert [r.id for r in decision.kept] == ["0002", "0003"]
    assert [(r.id, rule) for r, rule, _ in decision.gone] == [("0001", "near_duplicate")]
    assert decide(DataValidationConfig(), rows[::-1]).kept == decision.kept


def test_held_out_wording_is_contamination_and_templates_are_not():
    corpus = Corpus.of("npc_dialogue")
    drawn = [corpus.scenario(number) for number in range(60)]
    test = next(s for s in drawn if s.split == Split.TEST)
    held_out = HeldOutText([s for s in drawn if s.split != Split.TRAIN], corpus.trainer, 0.5)
    leaked = Grams(f"he said {test.prompt.casefold()} and left")
    assert held_out.fault(leaked, Split.TRAIN)[0] == "contamination"
    assert held_out.fault(leaked, Split.VALIDATION)[0] == "contamination"
    assert held_out.fault(leaked, Split.TEST) is None
    for scenario in drawn:
        if scenario.split == Split.TRAIN:
            assert held_out.fault(Grams(scenario.prompt.casefold()), Split.TRAIN) is None
    lore = " ".join(document.text for document in corpus.trainer.world.documents).casefold()
    assert held_out.fault(Grams(lore), Split.TRAIN) is None


def test_a_short_prompt_is_told_by_its_eight_grams():
    corpus = Corpus.of("npc_dialogue")
    test = next(s for s in map(corpus.scenario, range(60)) if s.split == Split.TEST)
    short = test.model_copy(update={"prompt": "who moved the blue ledger out of our vault tonight"})
    held_out = HeldOutText([short], corpus.trainer, 0.5)
    assert held_out.fault(Grams("i ask who moved the blue ledger out of our vault"), Split.TRAIN)
    assert held_out.fault(Grams("who moved the blue ledger is not my concern at all"), Split.TRAIN) is None


def test_an_answer_that_its_prompt_holds_is_refused():
    prompt = "the widow says that the heron was seen behind the old mill before the spring tide came"
    assert answer_fault(prompt, "The heron was seen behind the old mill before the spring tide", 0.5)
    assert answer_fault(prompt, "Nobody knows where the heron went after the long frost was over", 0.5) is None
    assert answer_fault(prompt, "the heron was seen", 0.5) is None
    assert share(["a", "b", "c"], ["a", "b", "d"], 2) == 0.5


def test_a_source_may_have_no_more_than_its_cap_and_keeps_its_best():
    rows = [row(i, score=i / 10, source=source) for i, source in enumerate(["x", "x", "x", "y", "z", "z"])]
    kept, gone = capped(rows, {"x": 1, "*": 1})
    assert [r.id for r in kept] == ["0002", "0003", "0005"] and {rule for _, rule, _ in gone} == {"source_cap"}
    assert capped(rows, {"x": 3}) == (rows, [])


def test_one_class_may_not_be_nearly_all():
    check_balance({"a": 90, "b": 10}, 0.9)
    check_balance({"a": 100}, 0.9)
    with pytest.raises(GateError, match="class 'a' has 91% of 100"):
        check_balance({"a": 91, "b": 9}, 0.9)


def test_drift_warns_and_blocks_and_chance_does_neither():
    rng = random.Random(0)
    night = [row(i, tokens=rng.gauss(100, 10), kind=rng.choice("abcdefgh")) for i in range(2000)]
    accepted = profile_of(night, None)
    same = [row(i, tokens=rng.gauss(100, 10), kind=rng.choice("abcdefgh")) for i in range(300)]
    assert check_drift(drift(accepted, same), 0.1, 0.25) == []
    shifted = [row(i, tokens=rng.gauss(104, 10), kind=rng.choice("abcdefgh")) for i in range(2000)]
    assert ["completion_tokens" in warning for warning in check_drift(drift(accepted, shifted), 0.1, 0.25)] == [True]
    far = [row(i, tokens=rng.gauss(120, 10), kind=rng.choice("abcdefgh")) for i in range(2000)]
    with pytest.raises(GateError, match="completion_tokens has drifted"):
        check_drift(drift(accepted, far), 0.1, 0.25)
    new_teacher = [row(i, tokens=rng.gauss(100, 10), kind="a") for i in range(2000)]
    with pytest.raises(GateError, match="kind has drifted"):
        check_drift(drift(accepted, new_teacher), 0.1, 0.25)


def test_the_index_is_the_population_stability_index():
    assert moved([50, 50], [50, 50]).index == 0.0
    assert moved([500, 500], [800, 200]).index == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))

import random

import pytest

from components.shared.collaboration.text_criteria import NAME, TextCriteria, judge_text, language
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.records import Split, Step, Verdict
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer

CLEAN = "The ferryman hid the lantern under the bridge before the tide came in, and nobody asked him why he did it."
GERMAN = "Der Fährmann hat die Laterne unter der Brücke vergraben, weil ihm im Dorf niemand mehr glauben wollte."
NATURAL = TextCriteria(languages=("en",))


def judged(text, criteria=NATURAL, toxic=("scum", "go and die"), score=0.9, **gates):
    verdict = Verdict(verifier="t/process@1", score=score, passed=True, gates=gates, criteria={"voice": score})
    return judge_text(verdict, text, criteria, toxic)


def test_a_clean_text_keeps_its_score_to_the_last_bit():
    verdict = judged(CLEAN, score=0.7000001)
    assert verdict.score == 0.7000001 and not verdict.reasons
    assert verdict.criteria == {"voice": 0.7000001, "distinct": 1, "repetition": 1, "language": 1, "toxicity": 1}
    assert verdict.verifier == f"t/process@1+{NAME}"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("on and " * 30, ("distinct", "repetition")),
        (f"{CLEAN} {CLEAN}", ("repetition",)),
        (GERMAN, ("language",)),
        (f"{CLEAN} You are SCUM.", ("toxicity",)),
        (f"{CLEAN} Go and die!", ("toxicity",)),
        ("scum", ("toxicity",)),
    ],
)
def test_each_criterion_lowers_the_score_and_says_why(text, broken):
    verdict = judged(text)
    assert {name for name, value in verdict.criteria.items() if value < 1 and name != "voice"} == set(broken)
    assert tuple(reason.partition(":")[0] for reason in verdict.reasons) == broken
    assert verdict.score < (0.9 if broken == ("repetition",) else 0.7)


@pytest.mark.parametrize("text", ["", "a", "aye", "no", f"{CLEAN} The scumble was on.", "hut ab"])
def test_what_cannot_be_told_is_no_fault(text):
    assert judged(text).score == 0.9 and not judged(text).reasons


def test_values_are_graded():
    some, many = ("and so " * count + CLEAN for count in (4, 12))
    assert 1 > judged(some).criteria["repetition"] > judged(many).criteria["repetition"] > 0
    once, twice = (judged(f"{CLEAN} {'scum ' * count}").criteria["toxicity"] for count in (1, 2))
    assert (once, twice) == (0.5, 0.25)


def test_an_unsure_guess_at_a_language_does_not_count():
    assert language(GERMAN, NATURAL)[0] < 0.1
    assert language(GERMAN, TextCriteria(languages=("en",), language_bytes=200)) == (1.0, "")
    assert language(GERMAN, TextCriteria(languages=("de", "en"))) == (1.0, "")


def test_a_closed_gate_stays_closed():
    verdict = judged("scum", score=0.0, schema=False)
    assert verdict.score == 0 and verdict.gates == {"schema": False}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_scripted_expert_is_judged_as_before(model_type):
    trainer = create_trainer(model_type, "wrackmere")
    verifier, rng = Verifier(trainer, 0.7), random.Random(3)
    for scenario in trainer.scenarios(rng, 200, [Split.TRAIN]):
        for habits in (trainer.teacher, Habits(visible=1.0, hidden=1.0, noise=0.0)):
            steps = trainer.demonstrate(scenario, rng, habits)
            before, after = trainer.verify(scenario, steps), verifier.verify(scenario, steps)
            assert (after.score, after.passed) == (before.score, before.score >= 0.7)
            assert {"distinct", "repetition", "toxicity"} <= after.criteria.keys()


def test_word_problems_are_asked_for_in_english_and_in_decent_words():
    trainer = create_trainer("word_problems", "wrackmere")
    verifier = Verifier(trainer, 0.7)
    scenario = trainer.scenario_from("Anna has 48 clips and gives away half. How many are left?", "24")

    def verdict(work):
        texts = [("Work", work), ("Answer", "#### 24")]
        steps = [Step(index=i, title=t, text=x, action={}, reward=1.0) for i, (t, x) in enumerate(texts, 1)]
        return verifier.verify(scenario, steps)

    english = "Half of the forty-eight clips are given away, so that <<48/2=24>>24 clips are left for Anna herself."
    german = (
        "Die Hälfte der achtundvierzig Klammern wird verschenkt, also bleiben Anna noch <<48/2=24>>24 Klammern übrig."
    )
    assert verdict(english).passed
    assert not verdict(german).passed and verdict(german).reasons == ("language: it reads as de, not as en",)
    assert not verdict(f"{english} You moron.").passed
    assert trainer.world.toxic  # the world's own list, which named the word

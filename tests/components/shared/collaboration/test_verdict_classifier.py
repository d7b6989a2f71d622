import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from components.shared.collaboration import embeddings
from components.shared.collaboration.verdict_classifier import error_rate, fit_classifier, load_classifier
from components.shared.contracts.errors import CorruptArtifact, GateError, UsageError
from components.shared.contracts.records import LabelledAnswer, Scenario, Split, Step

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TONES = {"friend": "warm", "foe": "cold", "kin": "soft", "guest": "polite"}


def labelled(count, seed=0, noise=0.0):
    """What is acceptable depends on prompt and answer together, not on either alone."""
    rng = random.Random(seed)
    for n in range(count):
        relation, tone = rng.choice(list(TONES)), rng.choice(list(TONES.values()))
        scenario = Scenario(
            id=f"{seed}-{n}",
            model_type="sum",
            group=f"g{rng.randrange(400)}",
            split=Split.TRAIN,
            prompt=f"{relation} asks of the {rng.choice(['bell', 'mill', 'dyke'])}",
            state={},
            difficulty=0.0,
        )
        step = Step(index=1, title="say", text=f"{tone} word {rng.randrange(50)}", action={}, reward=0.0)
        acceptable = (TONES[relation] == tone) != (rng.random() < noise)
        yield LabelledAnswer(scenario=scenario, steps=(step,), acceptable=acceptable, by="test")


@pytest.fixture(scope="module")
def fitted():
    return fit_classifier(labelled(1500))


def test_it_learns_what_holds_between_prompt_and_answer(fitted):
    report = fitted.report
    assert report.false_positive_rate.rate < 0.1 and report.false_negative_rate.rate < 0.1
    assert report.fitted_on > 500 and report.held_out > 150
    fresh = list(labelled(300, seed=1))
    probability = fitted.probabilities([(a.scenario, a.steps) for a in fresh])
    assert np.mean((probability >= 0.5) == [a.acceptable for a in fresh]) > 0.9


def test_its_output_is_a_probability_even_of_noisy_labels():
    report = fit_classifier(labelled(3000, noise=0.2)).report
    assert report.calibration_error < 0.12
    assert report.false_negative_rate.low <= report.false_negative_rate.rate <= report.false_negative_rate.high


def test_labels_that_say_nothing_are_not_learnt():
    blind = (a.model_copy(update={"acceptable": random.Random(a.scenario.id).random() < 0.5}) for a in labelled(1500))
    report = fit_classifier(blind).report
    assert report.false_positive_rate.high + report.false_negative_rate.high > 0.9


def test_a_saved_one_says_the_same_and_equal_fits_are_equal_bytes(fitted, tmp_path):
    fitted.save(tmp_path / "a.safetensors")
    fit_classifier(labelled(1500)).save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_classifier(tmp_path / "a.safetensors", "sum")
    answers = [(a.scenario, a.steps) for a in labelled(50, seed=2)]
    assert (loaded.probabilities(answers) == fitted.probabilities(answers)).all() and loaded.report == fitted.report
    with pytest.raises(UsageError, match="fitted for sum, not reasoning"):
        load_classifier(tmp_path / "a.safetensors", "reasoning")


class Letters:
    """How often each letter begins a word."""

    name = "letters-1"

    def encode(self, texts):
        counts = [[sum(word[0] == letter for word in text.split()) for letter in LETTERS] for text in texts]
        vectors = np.array(counts, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


def test_one_on_an_encoder_learns_from_vectors_and_is_read_with_the_same_encoder_alone(tmp_path, monkeypatch):
    alike = [a.model_copy(update={"acceptable": a.steps[0].text.startswith("warm")}) for a in labelled(1500)]
    fitted = fit_classifier(alike, embedder=Letters())
    assert fitted.report.embedder == "letters-1" and fitted.weights_F.shape == (3 * len(LETTERS),)
    assert fitted.report.false_positive_rate.rate < 0.05 and fitted.report.false_negative_rate.rate < 0.05
    fitted.save(tmp_path / "c.safetensors")
    monkeypatch.setattr(embeddings, "MiniLM", Letters)
    answers = [(a.scenario, a.steps) for a in alike[:50]]
    loaded = load_classifier(tmp_path / "c.safetensors", "sum")
    assert (loaded.probabilities(answers) == fitted.probabilities(answers)).all()
    monkeypatch.setattr(Letters, "name", "letters-2")
    with pytest.raises(UsageError, match="fitted on letters-1, here is letters-2"):
        load_classifier(tmp_path / "c.safetensors", "sum")


def test_what_is_no_classifier_is_refused(fitted, tmp_path):
    with pytest.raises(UsageError, match="no classifier at"):
        load_classifier(tmp_path / "none", "sum")
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95")
    save_file({"weights": np.zeros(4, dtype=np.float32)}, tmp_path / "bare")
    short = {"report": fitted.report.model_dump_json()}
    save_file({"weights": np.zeros(4, dtype=np.float32)}, tmp_path / "short", metadata=short)
    for name in ("pickle", "bare", "short"):
        with pytest.raises(CorruptArtifact, match=name):
            load_classifier(tmp_path / name, "sum")


def test_too_few_labels_and_mixed_ones_are_refused():
    with pytest.raises(GateError, match=r"acceptable and .* in the part"):
        fit_classifier(labelled(50))
    other = [a.model_copy(update={"scenario": a.scenario.model_copy(update={"model_type": "x"})}) for a in labelled(9)]
    with pytest.raises(UsageError, match=r"2 model types \(sum, x\)"):
        fit_classifier([*labelled(9), *other])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate(case):
    errors, count = case
    found = error_rate(errors, count)
    assert 0 <= found.low <= found.rate + 1e-12 and found.rate - 1e-12 <= found.high <= 1

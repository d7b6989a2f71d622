import random

import pytest

from benchmarks.data_validation.corpus import GERMAN, passage
from components.shared.collaboration.language import LANE, language_model

TEXTS = [
    *(passage(random.Random(seed), 6) for seed in range(40)),
    GERMAN,
    "",
    "a",
    "日本語のテキスト",
    "ALL IN CAPITALS",
    "Žluťoučký kůň",
    "\x00",
    "漢字かな交じり文。" * 100,
    *((GERMAN * 4)[: LANE * lanes + beyond] for lanes in (1, 2) for beyond in (-6, -1, 0, 1, 6)),
]


@pytest.mark.slow
def test_languages_are_those_of_py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    plain = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for (language, probability), text in zip(language_model().classify(TEXTS), TEXTS, strict=True):
        expected = plain.classify(text)
        assert probability == pytest.approx(expected[1], abs=1e-5)
        assert language == expected[0] or expected[1] < 0.02  # without a feature every language is as likely


def test_what_stands_beside_a_text_changes_nothing():
    model = language_model()
    assert model.classify(TEXTS) == [model.classify([text])[0] for text in TEXTS]

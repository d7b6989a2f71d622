import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data_validation.corpus import passage
from components.data_validation.personal_data import HINTS, SECRETS, PersonalData, secret_fault
from components.data_validation.spec import DataValidationConfig, NaturalText
from components.data_validation.text import HIDDEN, create_counter, create_screen, hidden
from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Split
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer

ENGLISH = [passage(random.Random(seed), 6) for seed in range(40)]
PIECES = st.sampled_from(
    ["555", "0", "+", "(212)", "-", " ", ".", "4111", "1111", "1411", "DE89", "GB82", "WEST", "@", "mail.example.org",
     "anna", "192", "168", "::", ":", "fe80", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "bc1q", "536", "22", "1874", "in the "]
)  # fmt: skip


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_formal_texts_are_words_of_the_vocabulary(model_type):
    trainer = create_trainer(model_type, "wrackmere")
    screen = create_screen(DataValidationConfig(), trainer)
    scenarios = generate_scenarios(trainer, {Split.TRAIN: 100}, 5)[Split.TRAIN]
    rng = random.Random(0)
    prompts = [s.prompt for s in scenarios]
    completions = [trainer.completion(trainer.demonstrate(s, rng, trainer.folk)) for s in scenarios]
    assert not any(screen.faults(prompts, [""] * 100)) and not any(screen.faults(completions, prompts))
    [fault] = screen.faults([f"{completions[0]} spaceship"], [""])
    assert fault == ("vocabulary", "'spaceship' is no word of the model type")


def test_the_token_budget_counts_prompt_and_completion():
    trainer = create_trainer("npc_dialogue", "wrackmere")
    screen = create_screen(DataValidationConfig(max_tokens=5), trainer)
    word = trainer.vocabulary()[-1]
    assert screen.faults([f"{word} {word} {word}"], [f"{word} {word}"]) == [None]
    assert screen.faults([f"{word} {word} {word}"], [f"{word} {word} {word}"])[0][0] == "tokens"


def test_tokens_are_counted_by_the_target_models_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert create_counter(str(tmp_path / "tokenizer.json"), False)("a b c a") == 4
    with pytest.raises(UsageError, match=r"none\.json' is no file"):
        create_counter(str(tmp_path / "none.json"), False)


@given(st.text(max_size=60))
def test_the_fast_look_for_hidden_characters_finds_what_the_pattern_does(text):
    assert (hidden(text) is None) == (HIDDEN.search(text) is None)


@pytest.mark.parametrize("text", ["naïve café", "\u4f60\u597d", "a\tb\nc", "👩\u200d🚀", "“quoted”"])
def test_ordinary_characters_are_not_hidden(text):
    assert hidden(text) is None


def test_every_secret_holds_a_hint():
    examples = {
        "AWS access key": "ASIAIOSFODNN7EXAMPLE",
        "GitHub token": "github_pat_" + "a" * 60,
        "API key": "sk-" + "a1" * 12,
        "Slack token": "xoxb-123456789012-abc",
        "Hugging Face token": "hf_" + "a" * 34,
        "Google API key": "AIza" + "b" * 35,
        "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
        "JSON web token": "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2Q",
        "password in an address": "redis://me:secret1@host",
        "password": "Access-Token = 'abcdefgh1'",
    }
    assert examples.keys() == SECRETS.keys()
    for kind, text in examples.items():
        assert any(hint in text.lower() for hint in HINTS)
        fault = secret_fault(f"So {text} it is")
        assert fault and fault[0] == "secret" and fault[1].startswith(kind) and text not in fault[1]
    assert secret_fault("The password was lost, the secret kept, and https://example.org visited.") is None


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=12))
def test_presidio_finds_nothing_where_no_condition_holds(pieces):
    text = "".join(pieces)
    policy = NaturalText()
    checked = PersonalData(policy.entities, policy.entity_score)
    found = checked.engine.analyze(text, language="en", entities=list(policy.entities), score_threshold=0.01)
    assert {find.entity_type for find in found} <= set(checked.suspects(text))
    strong = [find for find in found if find.score >= policy.entity_score]
    assert bool(checked.fault(text)) == bool(strong)


def test_an_unknown_entity_is_named():
    with pytest.raises(UsageError, match="did you mean 'EMAIL_ADDRESS'"):
        PersonalData(["EMAIL_ADRESS"], 0.4)

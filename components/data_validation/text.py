"""Checks of what a text says: what a policy would be trained on, by a policy that fits the model type.

A formal language has a closed vocabulary, so a word that is not in it is a fault and nothing else need be asked. Natural
text is judged by its language, and searched for secrets and personal data.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from components.data_validation.checks import Fault
from components.data_validation.personal_data import PersonalData, secret_fault
from components.data_validation.spec import DataValidationConfig, NaturalText
from components.shared.contracts.errors import UsageError
from components.shared.trainers.base_trainer import ModelTypeTrainer

HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls, save tab, line feed and carriage return
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional: what is read is not what is there
    "\u200b\u2060-\u2065\u206a-\u206f\ufeff"  # invisible; joiners (U+200C, U+200D) stay, scripts and emoji need them
    "\ue000-\uf8ff\ufdd0-\ufdef\ufff9-\uffff"  # private use, non-characters, and the sign of a failed decoding
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff"  # tags, which smuggle a second text, and private planes
    "]"
)
CONTROLS = bytes({*range(32), 127} - set(b"\t\n\r"))
"""The hidden characters of ASCII: deleting them is much faster than looking for them."""
BYTES_PER_TOKEN = 4
"""Bytes of English that one token of a large vocabulary holds on average."""


class Screen(Protocol):
    """Judges texts by themselves."""

    def faults(self, texts: Sequence[str], beside: Sequence[str]) -> list[Fault | None]:
        """What is wrong with each text; the target model must hold it together with what stands `beside` it."""


def create_screen(config: DataValidationConfig, trainer: ModelTypeTrainer) -> Screen:
    """The screen for the trainer's model type. Raises UsageError for a tokenizer or an entity that is not known."""
    formal = trainer.name in config.formal
    count = create_counter(config.tokenizer, formal)
    if formal:
        return FormalScreen(frozenset(trainer.vocabulary()), count, config.max_tokens)
    return NaturalScreen(config.natural, count, config.max_tokens)


def create_counter(tokenizer: str | None, formal: bool) -> Callable[[str], int]:
    """How many tokens a text is. Raises UsageError where the tokenizer cannot be read."""
    if tokenizer is None:
        return (lambda text: len(text.split())) if formal else (lambda text: -(-len(text.encode()) // BYTES_PER_TOKEN))
    if not Path(tokenizer).is_file():
        raise UsageError(f"tokenizer {tokenizer!r} is no file: pass the target model's tokenizer.json")
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_file(tokenizer)
    except Exception as error:  # the library raises bare Exception
        raise UsageError(
            f"tokenizer {tokenizer!r} cannot be read: {error}: pass the target's tokenizer.json"
        ) from error
    return lambda text: len(model.encode(text, add_special_tokens=False).ids)


def plain_fault(text: str, beside: str, count: Callable[[str], int], most: int) -> Fault | None:
    """What any text can be wrong in."""
    if match := hidden(text):
        return "hidden_characters", f"U+{ord(match[0]):04X} at character {match.start()}"
    if (tokens := count(text) + count(beside)) > most:
        return "tokens", f"{tokens} tokens, max_tokens = {most}"
    return None


def hidden(text: str) -> re.Match[str] | None:
    """The first hidden character."""
    if text.isascii() and len(text.encode().translate(None, CONTROLS)) == len(text):
        return None
    return HIDDEN.search(text)


class FormalScreen:
    """Words of a closed vocabulary."""

    def __init__(self, vocabulary: frozenset[str], count: Callable[[str], int], max_tokens: int):
        self._vocabulary, self._count, self._max_tokens = vocabulary, count, max_tokens

    def faults(self, texts: Sequence[str], beside: Sequence[str]) -> list[Fault | None]:
        return [self._fault(text, near) for text, near in zip(texts, beside, strict=True)]

    def _fault(self, text: str, beside: str) -> Fault | None:
        if fault := plain_fault(text, beside, self._count, self._max_tokens):
            return fault
        # Casing is no fault here: duplicates that differ in it alone are told by their normalised text.
        stranger = next(
            (word for word in text.split() if word.lower() not in self._vocabulary and word not in self._vocabulary),
            None,
        )
        return ("vocabulary", f"{stranger[:40]!r} is no word of the model type") if stranger else None


class NaturalScreen:
    """Language, secrets and personal data."""

    def __init__(self, policy: NaturalText, count: Callable[[str], int], max_tokens: int):
        self._policy, self._count, self._max_tokens = policy, count, max_tokens
        self._personal_data = PersonalData(policy.entities, policy.entity_score)
        self._languages = None
        if policy.languages:
            from components.shared.collaboration.language import language_model

            self._languages = language_model()

    def faults(self, texts: Sequence[str], beside: Sequence[str]) -> list[Fault | None]:
        plain = (plain_fault(t, near, self._count, self._max_tokens) for t, near in zip(texts, beside, strict=True))
        spoken = self._language_faults(texts)
        return [
            first or second or self._sensitive_fault(text)
            for first, second, text in zip(plain, spoken, texts, strict=True)
        ]

    def _language_faults(self, texts: Sequence[str]) -> list[Fault | None]:
        faults: list[Fault | None] = [None] * len(texts)
        long = [i for i, text in enumerate(texts) if len(text.encode()) >= self._policy.language_bytes]
        if self._languages is None or not long:
            return faults
        for i, (language, probability) in zip(long, self._languages.classify([texts[i] for i in long]), strict=True):
            if language not in self._policy.languages and probability >= self._policy.language_probability:
                faults[i] = "language", f"{language} with probability {probability:.2f}"
        return faults

    def _sensitive_fault(self, text: str) -> Fault | None:
        return (secret_fault(text) if self._policy.secrets else None) or self._personal_data.fault(text)

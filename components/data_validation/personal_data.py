"""Personal data and secrets in natural text.

presidio's regular-expression recognisers decide, by an allow-list of entities. They cost about a millisecond a text, and
nearly every text shows at a glance that they would find nothing: for each entity there is a condition, necessary by the
recogniser's own pattern, and only texts that meet one reach presidio.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from components.data_validation.checks import Fault
from components.shared.contracts.errors import unknown


@dataclass(frozen=True)
class Condition:
    """What a text must hold, some of it so cheap to count that the pattern is seldom tried."""

    pattern: re.Pattern[str]
    digits: int = 0
    """Digits that every match holds at least."""
    mark: str = ""
    """A character that every match holds."""
    marks: int = 1
    """How often it does."""


NECESSARY: dict[str, tuple[Condition, ...]] = {
    "CREDIT_CARD": (Condition(re.compile(r"\d(?:[- ]?\d){12}"), digits=13),),
    "CRYPTO": (Condition(re.compile(r"[bB13][A-Za-z0-9]{25}"), digits=1),),
    "EMAIL_ADDRESS": (Condition(re.compile(r"@\w"), mark="@"),),
    "IBAN_CODE": (Condition(re.compile(r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}"), digits=2),),
    "IP_ADDRESS": (
        Condition(re.compile(r":[0-9A-Fa-f]{0,4}:"), mark=":", marks=2),
        Condition(re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]"), digits=4),
    ),
    # No national number of presidio.REGIONS has fewer than seven digits, and no separator is longer than four.
    "PHONE_NUMBER": (
        Condition(re.compile(r"\d(?:\D{0,4}\d){6}"), digits=7),
        Condition(re.compile(r"[+\uff0b]\D{0,4}\d"), digits=1, mark="+"),
    ),
    "US_SSN": (Condition(re.compile(r"[0-9]{3}[- .]?[0-9]{2}[- .]?[0-9]{4}|[0-9]{5}-[0-9]{4}"), digits=9),),
}
"""One of an entity's conditions holds for every text that presidio finds it in."""
DIGITS, MARKS = b"0123456789", "@:+"
DULL = bytes(set(range(256)) - set(DIGITS + MARKS.encode()))
SECRETS = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{50,}",
    "API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "Slack token": r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "private key": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@]{1,64}:[^\s/@]{3,64}@",
    "password": r"(?i)\b(?:password|passwd|api[_-]?key|secret[_-]?key|access[_-]?token)\b[\"']?\s{0,3}[:=]\s{0,3}"
    r"[\"']?[^\s\"']{8,}",
}
"""Secrets by their issuers' formats."""
HINTS = (
    *(
        "akia",
        "asia",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "sk-",
        "xox",
        "hf_",
        "aiza",
        "private key",
    ),
    *("eyj", "://", "passw", "api_key", "api-key", "apikey", "secret", "access_token", "access-token", "accesstoken"),
)
"""What one of those patterns needs, in small letters: looking for words is much faster than for patterns."""


class PersonalData:
    """Looks for some of presidio's entities."""

    def __init__(self, entities: Sequence[str], score: float):
        for entity in entities:
            if entity not in NECESSARY:
                raise unknown("entity of natural.entities", entity, NECESSARY)
        self._conditions = {entity: NECESSARY[entity] for entity in entities}
        self._score = score

    def fault(self, text: str) -> Fault | None:
        """The first find, by its kind and place and never by its value: reasons are read by many."""
        if not (entities := self.suspects(text)):
            return None
        found = self.engine.analyze(text, language="en", entities=entities, score_threshold=self._score)
        if not found:
            return None
        first = min(found, key=lambda find: (find.start, find.end, find.entity_type))
        return "personal_data", f"{first.entity_type} at characters {first.start} to {first.end}"

    def suspects(self, text: str) -> list[str]:
        """The entities that presidio might find in a text."""
        seen = text.encode().translate(None, DULL)
        # Beyond ASCII there are more digits and more plus signs than these: then every pattern is tried.
        exact = text.isascii()
        digits = len(seen.translate(None, MARKS.encode())) if exact else sys.maxsize
        if not digits and b"@" not in seen and seen.count(b":") < 2:
            return []
        counts = {mark: seen.count(mark.encode()) if exact else sys.maxsize for mark in MARKS}
        return [
            entity
            for entity, conditions in self._conditions.items()
            if any(
                digits >= condition.digits
                and counts.get(condition.mark, 1) >= condition.marks
                and condition.pattern.search(text)
                for condition in conditions
            )
        ]

    @cached_property
    def engine(self) -> Any:
        """Imported by the first suspicious text: presidio takes seconds to load, and most nights need none."""
        from components.data_validation.presidio import create_engine

        return create_engine()


def secret_fault(text: str) -> Fault | None:
    """The first secret in a text, by its kind."""
    if not any(map(text.lower().__contains__, HINTS)):
        return None
    for kind, pattern in SECRETS.items():
        if match := re.search(pattern, text):
            return "secret", f"{kind} at character {match.start()}"
    return None

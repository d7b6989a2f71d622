"""How an answer reads, whatever it says: graded criteria over its wording, with bounds that each model type declares.

    distinct     share of distinct runs of n words (distinct-n; Li et al. 2016, arXiv 1510.03055)
    repetition   share of words in runs that were said before (as Gopher's filters; Rae et al. 2021, arXiv 2112.11446)
    language     py3langid's model, for natural text
    toxicity     words of the world's toxic.yaml: a list, not a model, so it knows nothing of context or of other words

A clean text meets all of them in full and keeps the score that its model type's verifier gave; each criterion that is not
met takes its weight's share of the score away. Nothing is ever added, so no text passes that would not have passed before.
"""

import functools
import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.records import Verdict

NAME = "text@1"
"""What a verdict says of these criteria; the number rises when one changes its mind."""


class TextCriteria(BaseModel):
    """Bounds of one model type."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    distinct_n: int = Field(default=2, ge=1)
    distinct: float = Field(default=0.5, gt=0, le=1)
    """Least share of a text's runs of `distinct_n` words that are distinct."""
    repeated_n: int = Field(default=5, ge=2)
    repeated: float = Field(default=0.2, ge=0, lt=1)
    """Most share of a text's words that may stand in runs of `repeated_n` words which it said before."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes; none where the vocabulary is closed, which says more than any guess at a language."""
    language_bytes: int = Field(default=80, ge=1)
    """Shorter texts are not judged: a guess at their language is too often wrong."""
    language_probability: float = Field(default=0.9, gt=0, le=1)
    """Probability of another language from which it counts."""
    weights: dict[str, float] = {"distinct": 0.5, "repetition": 0.5, "language": 1.0, "toxicity": 1.0}
    """Share of the score that a criterion takes where it is not met at all."""


Found = tuple[float, str]
"""A criterion's value in [0, 1], and what to tell the teacher below 1."""


def judge_text(verdict: Verdict, text: str, criteria: TextCriteria, toxic: Sequence[str]) -> Verdict:
    """The verdict with these criteria, and with a score lowered by those that `text` does not meet.

    Whether it still passes is the caller's to say.
    """
    words = text.casefold().split()
    found: dict[str, Found] = {
        "distinct": distinct(words, criteria.distinct_n, criteria.distinct),
        "repetition": repetition(words, criteria.repeated_n, criteria.repeated),
        "toxicity": toxicity(text, tuple(toxic)),
    }
    if criteria.languages:
        found["language"] = language(text, criteria)
    score = verdict.score
    for name, (value, _) in found.items():
        score *= 1 - criteria.weights.get(name, 0.0) * (1 - value)
    faults = tuple(f"{name}: {reason}" for name, (value, reason) in found.items() if value < 1)
    return verdict.model_copy(
        update={
            "verifier": f"{verdict.verifier}+{NAME}",
            "score": round(score, 6) if faults else verdict.score,
            "criteria": {**verdict.criteria, **{name: value for name, (value, _) in found.items()}},
            "reasons": (*verdict.reasons, *faults),
        }
    )


def distinct(words: Sequence[str], n: int, least: float) -> Found:
    """Distinct-n against its bound; a text without a run of n words repeats none."""
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    share = len(set(runs)) / len(runs) if runs else 1.0
    reason = f"{share:.0%} of its runs of {n} words are distinct, {least:.0%} are wanted: vary the wording"
    return min(1.0, share / least), reason


def repetition(words: Sequence[str], n: int, most: float) -> Found:
    """The share of words within runs of n words that the text said before, against its bound."""
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for start, run in enumerate(zip(*(words[i:] for i in range(n)), strict=False)):
        if run in seen:
            repeated.update(range(start, start + n))
        seen.add(run)
    share = len(repeated) / len(words) if words else 0.0
    reason = f"{share:.0%} of its words repeat what it said before, {most:.0%} may: say each thing once"
    return min(1.0, (1 - share) / (1 - most)), reason


def language(text: str, criteria: TextCriteria) -> Found:
    """1 less the probability of a language that is not asked for, where the model is sure of it."""
    if len(text.encode()) < criteria.language_bytes:
        return 1.0, ""
    from components.shared.collaboration.language import language_model  # half a second, for natural text alone

    [(said, probability)] = language_model().classify([text])
    if said in criteria.languages or probability < criteria.language_probability:
        return 1.0, ""
    return round(1 - probability, 6), f"it reads as {said}, not as {' or '.join(criteria.languages)}"


def toxicity(text: str, toxic: tuple[str, ...]) -> Found:
    """Halved by each listed word that the text says."""
    said = _listed(toxic).findall(text.casefold()) if toxic else []
    return 0.5 ** len(said), f"the world's list has {', '.join(sorted(set(said)))}: say it without"


@functools.cache
def _listed(toxic: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(re.escape(word.casefold()) for word in toxic)})\b")

"""How like the expert's step a sampled step is: SRL's reward in the paper's reading (arXiv 2510.25992, section 3.2).

    exact   2M / T of difflib's SequenceMatcher, M matched characters of T in both texts, compiled
    fast    normalised Indel similarity, from the longest common subsequence: another number, the same ranking almost always
    typed   for actions with a schema: the F1 of their arguments, 0 where the kinds differ

The argument order is fixed, the model's step first, since SequenceMatcher is not symmetric; its `autojunk` heuristic is off,
since from 200 characters on it throws the commonest letters away. Unrelated texts of one language are already 0.1 to 0.5
alike, so a floor is subtracted and the rest stretched over [0, 1].
"""

from collections.abc import Mapping

from cydifflib import SequenceMatcher
from pydantic import JsonValue
from rapidfuzz.distance import Indel

FORMAT_ERROR = -1.0
"""Reward of an answer that does not follow the think-then-act format."""


def exact(ours: str, expert: str) -> float:
    """`difflib.SequenceMatcher(None, ours, expert, autojunk=False).ratio()`, to the last bit."""
    return SequenceMatcher(None, ours, expert, autojunk=False).ratio()


def fast(ours: str, expert: str) -> float:
    """2 * LCS / T by RapidFuzz: never below `exact`, since SequenceMatcher's blocks are a common subsequence."""
    return Indel.normalized_similarity(ours, expert)


def typed(ours: Mapping[str, JsonValue] | None, expert: Mapping[str, JsonValue], kind: str = "kind") -> float:
    """F1 of the arguments (key and value both equal) of two typed actions.

    0 where ours is none (it did not parse) or the two are of different kinds; 1 for equal actions without arguments.
    """
    if ours is None or ours.get(kind) != expert.get(kind):
        return 0.0
    given = {key: value for key, value in ours.items() if key != kind}
    wanted = {key: value for key, value in expert.items() if key != kind}
    if not given and not wanted:
        return 1.0
    matched = sum(key in wanted and wanted[key] == value for key, value in given.items())
    return 2 * matched / (len(given) + len(wanted))


def above_floor(likeness: float, floor: float) -> float:
    """What is left of a likeness above the floor, stretched over [0, 1]."""
    return max(0.0, (likeness - floor) / (1.0 - floor))

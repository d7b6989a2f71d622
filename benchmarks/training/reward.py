"""SRL's step rewards against the standard library's SequenceMatcher, on texts of 100, 400 and 2,000 characters.

    python -m benchmarks.training.reward

Half of the pairs are a text and an edited copy, half are two texts. `exact` must give the same bits; `fast` is another
number, whose rank correlation with it is shown.
"""

import difflib
import random
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.measures import Measure, cpu_seconds, mean, publish, ratio
from components.shared.trainers.trainer_factory import create_trainer
from components.srl.step_rewards import exact, fast

PAIRS = {100: 400, 400: 60, 2000: 4}
"""Pairs by characters of each text."""


def standard(ours: str, expert: str) -> float:
    return difflib.SequenceMatcher(None, ours, expert, autojunk=False).ratio()


def pairs(characters: int, count: int) -> list[tuple[str, str]]:
    rng = random.Random(characters)
    corpus = list(create_trainer("story_generation", "wrackmere").corpus(rng, 400))

    def text() -> str:
        joined = ""
        while len(joined) < characters:
            joined += f"{rng.choice(corpus)} "
        return joined[:characters]

    def edited(words: list[str]) -> str:
        for _ in range(len(words) // 6):
            words[rng.randrange(len(words))] = rng.choice(words)
        return " ".join(words)

    firsts = [text() for _ in range(count)]
    return [(first, edited(first.split()) if i % 2 else text()) for i, first in enumerate(firsts)]


def compare(way: Callable[[str, str], float], texts: list[tuple[str, str]]) -> list[float]:
    return [way(*pair) for pair in texts]


def main() -> int:
    from scipy.stats import spearmanr

    measures = []
    for characters, count in PAIRS.items():
        texts = pairs(characters, count)
        values = {way: compare(way, texts) for way in (standard, exact, fast)}
        if values[exact] != values[standard]:
            raise SystemExit(f"exact differs from difflib at {characters} characters")
        ranks = spearmanr(values[fast], values[standard]).statistic
        repeats = {standard: 1, exact: 1, fast: 100}
        work = {way.__name__: partial(compare, way, texts * times) for way, times in repeats.items()}
        seconds = cpu_seconds(work)
        seconds["fast"] = [s / repeats[fast] for s in seconds["fast"]]
        rates = {name: count / mean(found) for name, found in seconds.items()}
        for name, goal in (("exact", 1.5), ("fast", 100.0)):
            aimed = name == "exact" or characters >= 400
            measures.append(
                Measure(
                    name=f"step reward, {name}, {characters} characters",
                    unit="pairs/s",
                    ours=rates[name],
                    peer=rates["standard"],
                    peer_name="difflib",
                    ratio=ratio(seconds["standard"], seconds[name]),
                    at_least=goal if aimed else None,
                    note="the same bits" if name == "exact" else f"rank correlation with exact {ranks:.3f}",
                )
            )
    return publish(*measures)


if __name__ == "__main__":
    sys.exit(main())

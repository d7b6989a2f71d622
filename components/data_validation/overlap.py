"""Text that stands where it must not: a held-out prompt inside a training text, or an answer inside its own prompt.

Both are told by runs of words: of 13 (GPT-3, arXiv 2005.14165, appendix C), of 8 where a text is too short for those
(PaLM, arXiv 2204.02311, section 8). Prompts come from templates, so a single run tells nothing: what counts is the share
of a prompt's own runs. Those that prompts of two groups share are their template, and what the world's documents say
belongs to everybody; neither is a prompt's own.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from components.data_validation.checks import Fault
from components.data_validation.ngrams import Grams, Numbers, RunIndex, share
from components.shared.collaboration.example_generator import PROTECTED, normalised
from components.shared.contracts.records import Scenario, Split
from components.shared.trainers.base_trainer import ModelTypeTrainer

LONG, SHORT = 13, 8


class HeldOutText:
    """The wording of the prompts of validation and test."""

    def __init__(self, scenarios: Iterable[Scenario], trainer: ModelTypeTrainer, coverage: float):
        self._coverage = coverage
        documents = [Grams(normalised(document.text)) for document in trainer.world.documents]
        texts: dict[tuple[Split, int], list[tuple[str, Numbers]]] = defaultdict(list)
        for scenario in scenarios:
            grams = Grams(normalised(scenario.prompt))
            n = LONG if grams.words >= LONG else SHORT
            texts[scenario.split, n].append((scenario.group, grams.runs(n)))
        known = {n: _joined([grams.runs(n) for grams in documents]) for n in (LONG, SHORT)}
        self._wording = {(split, n): _Wording(found, known[n]) for (split, n), found in texts.items()}

    def fault(self, grams: Grams, split: Split) -> Fault | None:
        """Whether a text of `split` holds a prompt of a more protected one."""
        owners = PROTECTED[: PROTECTED.index(split)]
        for n in (LONG, SHORT):
            wordings = [(owner, self._wording[owner, n]) for owner in owners if (owner, n) in self._wording]
            if not wordings:
                continue
            runs = grams.runs(n)
            for owner, wording in wordings:
                if (most := wording.coverage(runs, self._coverage)) >= self._coverage:
                    return "contamination", f"{split} holds {most:.0%} of the {n}-grams of a prompt of {owner}"
        return None


class _Wording:
    """Each prompt's own runs, all in one index."""

    def __init__(self, texts: list[tuple[str, Numbers]], known: Numbers):
        own = RunIndex(_distinctive(texts, known))
        parts = [np.unique(own.met(runs)) for _, runs in texts]
        self._sizes = np.array([len(part) for part in parts], dtype=np.int64)
        self._smallest = min((len(part) for part in parts if len(part)), default=1)
        runs = _joined(parts)
        order = np.argsort(runs, kind="stable")
        self._index = RunIndex(runs[order])
        self._owners = np.repeat(np.arange(len(parts)), self._sizes)[order]

    def coverage(self, runs: Numbers, least: float) -> float:
        """The largest share of one prompt's own runs that is among `runs`; 0 where that is certainly under `least`."""
        met = self._index.met(runs)
        if len(met) < least * self._smallest:
            return 0.0
        met = np.unique(met)
        first, last = (np.searchsorted(self._index.runs, met, side=side) for side in ("left", "right"))
        owners = np.concatenate([self._owners[low:high] for low, high in zip(first, last, strict=True)])
        who, hits = np.unique(owners, return_counts=True)
        return float((hits / self._sizes[who]).max())


def answer_fault(prompt: str, answer: str, coverage: float) -> Fault | None:
    """Whether an answer (a trajectory's last step) is to be read in its own prompt; under 8 words nothing can be told."""
    said, given = answer.casefold().split(), prompt.casefold().split()
    # Without so many known words in a row no run can be shared, and most texts end here.
    if b"\1" * SHORT not in bytes(map(set(given).__contains__, said)):
        return None
    if (found := share(said, given, SHORT)) >= coverage:
        return "answer_in_prompt", f"the prompt holds {found:.0%} of the answer's {SHORT}-grams"
    return None


def _distinctive(texts: list[tuple[str, Numbers]], known: Numbers) -> Numbers:
    """The runs, sorted, that the prompts of one group alone have and no document does."""
    by_group: dict[str, list[Numbers]] = defaultdict(list)
    for group, runs in texts:
        by_group[group].append(runs)
    distinct, groups = np.unique(_joined([np.unique(_joined(runs)) for runs in by_group.values()]), return_counts=True)
    return np.setdiff1d(distinct[groups == 1], known, assume_unique=False)


def _joined(parts: list[Numbers]) -> Numbers:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)

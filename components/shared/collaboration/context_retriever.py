"""What the world knows about a scenario: BM25 over lore, each document with the facts about its entities.

The index is built once for a world's content and may be cached in a folder, from which it is memory-mapped. Documents
are known by their ids, never by an address.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from pydantic import JsonValue

from components.shared.collaboration.world import Document, Fact, World
from components.shared.contracts.records import Scenario, content_id
from components.shared.storage.artifacts import whole

INDEX_VERSION = f"1/bm25s-{bm25s.__version__}"
"""Part of the cache's key: raised when documents are rendered or cut into words in another way."""
WORD = re.compile(r"\w+")
STOPWORDS = frozenset(STOPWORDS_EN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A document that was found."""

    id: str
    score: float
    """BM25 score, above 0; only comparable within one query."""


class ContextRetriever:
    """Ranks a world's documents for a query."""

    def __init__(self, world: World, cache: Path | None = None):
        """`cache` is a folder that keeps the index between runs; without it the index lives in memory."""
        self._documents = {document.id: document for document in sorted(world.documents, key=lambda d: d.id)}
        self._ids = tuple(self._documents)
        self._index = _open(world, self._documents, cache) if self._ids else None
        self._facts = {fact.id: render_fact(fact) for fact in world.facts}

    def retrieve(self, query: str, depth: int) -> tuple[Hit, ...]:
        """The `depth` best documents that share a word with the query, best first, ties by id."""
        if self._index is None:
            return ()
        words = [word for word in words_of(query) if word in self._index.vocab_dict]
        if not words:
            return ()
        scores = self._index.get_scores(words)
        if depth < len(scores):
            floor = np.partition(scores, -depth)[-depth]
            near = np.flatnonzero(scores >= max(floor, np.finfo(scores.dtype).tiny))
        else:
            near = np.flatnonzero(scores > 0)
        best = near[np.argsort(-scores[near], kind="stable")][:depth]
        return tuple(Hit(id=self._ids[i], score=float(scores[i])) for i in best)

    def for_scenario(self, scenario: Scenario, depth: int) -> tuple[Document, ...]:
        """The documents for a scenario, by its prompt and state; an id of a fact there asks for what the fact says."""
        words = [scenario.prompt, *leaves(scenario.state)]
        asked = " ".join(self._facts.get(word, word) for text in words for word in text.split())
        return tuple(self._documents[hit.id] for hit in self.retrieve(asked, depth))


def render_fact(fact: Fact) -> str:
    """A fact as words, its id first."""
    return f"{fact.id}: {fact.entity} {fact.attribute} {fact.value}"


def leaves(value: JsonValue) -> Iterator[str]:
    """The strings in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)


def words_of(text: str) -> list[str]:
    """Lower-case words without the commonest English ones."""
    return [word for word in WORD.findall(text.lower()) if word not in STOPWORDS]


def _texts(world: World, documents: dict[str, Document]) -> Iterator[str]:
    facts: dict[str, list[str]] = {}
    for fact in world.facts:
        facts.setdefault(fact.entity, []).append(render_fact(fact))
    for document in documents.values():
        known = [line for entity in document.entities for line in facts.get(entity, ())]
        yield "\n".join((document.title, document.text, *known))


def _open(world: World, documents: dict[str, Document], cache: Path | None) -> bm25s.BM25:
    if cache is None:
        return _build(world, documents)
    folder = cache / f"bm25-{content_id(world.digest, INDEX_VERSION)}"
    if not folder.is_dir():
        index = _build(world, documents)
        with whole(folder) as temporary:
            index.save(temporary, show_progress=False)
    return bm25s.BM25.load(folder, mmap=True, show_progress=False)


def _build(world: World, documents: dict[str, Document]) -> bm25s.BM25:
    index = bm25s.BM25()
    index.index([words_of(text) for text in _texts(world, documents)], show_progress=False)
    return index

"""What is known about a scenario: BM25 over documents, each with the facts about its entities.

The index is built once for a knowledge base's content and may be cached in a folder, from which it is memory-mapped.
Documents are known by their ids, never by an address. With an embedder, BM25's ranking and that of the embeddings are fused
by reciprocal rank (Cormack et al. 2009), which needs no common scale.

Axes: N documents, D embedding dimensions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from pydantic import JsonValue

from components.shared.collaboration.world import Document, Fact
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario, content_id
from components.shared.storage.artifacts import whole

INDEX_VERSION = f"1/bm25s-{bm25s.__version__}"
"""Part of the cache's key: raised when documents are rendered or cut into words in another way."""
WORD = re.compile(r"\w+")
STOPWORDS = frozenset(STOPWORDS_EN)
RANK_OFFSET = 60
"""Of reciprocal ranks, as in the paper: the first ranks count much, but no single one decides."""
FUSED = 5
"""Documents that each ranking gives to the fusion, times the depth asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A document that was found."""

    id: str
    score: float
    """BM25 score or sum of reciprocal ranks, above 0; only comparable within one query."""


class KnowledgeSource(Protocol):
    """Documents and facts with an identity: a world, or a knowledge base of its own."""

    @property
    def documents(self) -> tuple[Document, ...]: ...

    @property
    def facts(self) -> tuple[Fact, ...]: ...

    @property
    def digest(self) -> str: ...


class Embedder(Protocol):
    """Text as vectors."""

    name: str
    """Model and version, part of the cache's key."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, N x D."""
        ...


class Retriever(Protocol):
    """Finds documents, here or over a wire."""

    waits: bool
    """Whether an answer takes long enough to do something else meanwhile."""

    def retrieve(self, query: str, depth: int) -> tuple[Hit, ...]:
        """The `depth` best documents for a query, best first."""
        ...

    def for_scenario(self, scenario: Scenario, depth: int) -> tuple[Document, ...]:
        """The documents for a scenario."""
        ...

    def document(self, id: str) -> Document:
        """One document. Raises UsageError where there is none of that id."""
        ...

    def facts_of(self, document: Document) -> tuple[Fact, ...]:
        """The facts about a document's entities."""
        ...


class ContextRetriever:
    """Ranks a knowledge source's documents for a query."""

    waits = False

    def __init__(self, source: KnowledgeSource, cache: Path | None = None, embedder: Embedder | None = None):
        """`cache` is a folder that keeps the index between runs; without it the index lives in memory."""
        self._documents = {document.id: document for document in sorted(source.documents, key=lambda d: d.id)}
        self._ids = tuple(self._documents)
        self._facts = {fact.id: render_fact(fact) for fact in source.facts}
        self._by_entity: dict[str, list[Fact]] = {}
        for fact in source.facts:
            self._by_entity.setdefault(fact.entity, []).append(fact)
        self._index = self._open(source, cache) if self._ids else None
        self._embedder = embedder
        self._vectors_ND = self._embedded(source, cache, embedder) if embedder and self._ids else None

    def __len__(self) -> int:
        return len(self._ids)

    def retrieve(self, query: str, depth: int) -> tuple[Hit, ...]:
        """The `depth` best documents, best first, ties by id; by BM25 alone, those that share a word with the query."""
        if self._vectors_ND is None or self._embedder is None:
            return self._by_words(query, depth)
        near_N = self._vectors_ND @ self._embedder.encode([query])[0]
        rankings = (
            [hit.id for hit in self._by_words(query, FUSED * depth)],
            [self._ids[i] for i in top(near_N, FUSED * depth)],
        )
        return fuse(rankings, depth)

    def for_scenario(self, scenario: Scenario, depth: int) -> tuple[Document, ...]:
        """The documents for a scenario, by its prompt and state; an id of a fact there asks for what the fact says."""
        words = [scenario.prompt, *leaves(scenario.state)]
        asked = " ".join(self._facts.get(word, word) for text in words for word in text.split())
        return tuple(self._documents[hit.id] for hit in self.retrieve(asked, depth))

    def document(self, id: str) -> Document:
        if id not in self._documents:
            raise UsageError(f"no document {id!r} among {len(self)}: check the id")
        return self._documents[id]

    def facts_of(self, document: Document) -> tuple[Fact, ...]:
        return tuple(fact for entity in document.entities for fact in self._by_entity.get(entity, ()))

    def _by_words(self, query: str, depth: int) -> tuple[Hit, ...]:
        if self._index is None:
            return ()
        words = [word for word in words_of(query) if word in self._index.vocab_dict]
        if not words:
            return ()
        scores_N = self._index.get_scores(words)
        return tuple(Hit(id=self._ids[i], score=float(scores_N[i])) for i in top(scores_N, depth))

    def _texts(self) -> Iterator[str]:
        for document in self._documents.values():
            known = (render_fact(fact) for fact in self.facts_of(document))
            yield "\n".join((document.title, document.text, *known))

    def _open(self, source: KnowledgeSource, cache: Path | None) -> bm25s.BM25:
        if cache is None:
            return self._build()
        folder = cache / f"bm25-{content_id(source.digest, INDEX_VERSION)}"
        if not folder.is_dir():
            index = self._build()
            with whole(folder) as temporary:
                index.save(temporary, show_progress=False)
        return bm25s.BM25.load(folder, mmap=True, show_progress=False)

    def _build(self) -> bm25s.BM25:
        index = bm25s.BM25()
        index.index([words_of(text) for text in self._texts()], show_progress=False)
        return index

    def _embedded(self, source: KnowledgeSource, cache: Path | None, embedder: Embedder) -> np.ndarray:
        if cache is None:
            return embedder.encode(list(self._texts()))
        folder = cache / f"vectors-{content_id(source.digest, INDEX_VERSION, embedder.name)}"
        if not folder.is_dir():
            vectors_ND = embedder.encode(list(self._texts()))
            with whole(folder) as temporary:
                np.save(temporary / "vectors.npy", vectors_ND, allow_pickle=False)
        return np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)


def top(scores_N: np.ndarray, depth: int) -> np.ndarray:
    """Positions of the `depth` highest scores above 0, highest first, ties by position."""
    if depth < len(scores_N):
        floor = np.partition(scores_N, -depth)[-depth]
        near = np.flatnonzero(scores_N >= max(floor, np.finfo(scores_N.dtype).tiny))
    else:
        near = np.flatnonzero(scores_N > 0)
    return near[np.argsort(-scores_N[near], kind="stable")][:depth]


def fuse(rankings: Sequence[Sequence[str]], depth: int) -> tuple[Hit, ...]:
    """The best ids of several rankings by the sum of their reciprocal ranks, ties by id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + 1 / (RANK_OFFSET + rank)
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:depth]
    return tuple(Hit(id=id, score=score) for id, score in best)


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

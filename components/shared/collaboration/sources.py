"""Where a retriever's documents come from, by one string: a folder, `world:NAME`, or the address of a service."""

import os
from pathlib import Path

from components.shared.collaboration.context_retriever import ContextRetriever, KnowledgeSource, Retriever
from components.shared.collaboration.knowledge_base import read_knowledge_base
from components.shared.collaboration.world import load_world
from components.shared.contracts.errors import UsageError

TOKEN = "SRL_RLVR_KNOWLEDGE_TOKEN"
"""Environment variable with the token for a service; none is sent where it is not set."""


def open_retriever(source: str, *, cache: Path | None = None, embeddings: bool = False) -> Retriever:
    """The retriever over `source`. Raises UsageError where nothing is there."""
    if source.startswith(("http://", "https://")):
        from components.shared.collaboration.context_client import ContextClient

        return ContextClient(source, os.environ.get(TOKEN))
    if embeddings:
        from components.shared.collaboration.embeddings import MiniLM

        return ContextRetriever(_documents(source), cache, MiniLM())
    return ContextRetriever(_documents(source), cache)


def _documents(source: str) -> KnowledgeSource:
    if source.startswith("world:"):
        return load_world(source.removeprefix("world:"))
    if not Path(source).is_dir():
        raise UsageError(f"no folder {source}: name one with documents, world:NAME, or a service's http address")
    return read_knowledge_base(Path(source))

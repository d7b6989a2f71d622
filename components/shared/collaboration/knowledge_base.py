"""A knowledge base of its own: a folder of documents with typed facts beside them.

*.md         one document each: a front matter of id, title and entities between --- lines, then prose
facts.jsonl  one typed fact a line: entity, attribute, value, valid from and to, known by whom
*.jsonl      any other: one document a line
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from components.shared.collaboration.world import Document, Fact, read_document
from components.shared.contracts.errors import UsageError
from components.shared.storage.jsonl import read_jsonl

FACTS = "facts.jsonl"


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """Documents and facts, in the order of their files."""

    documents: tuple[Document, ...]
    facts: tuple[Fact, ...]
    digest: str
    """SHA-256 over the files' relative names and bytes."""


def read_knowledge_base(folder: Path) -> KnowledgeBase:
    """The knowledge base in `folder` and what lies below it.

    Raises UsageError where there is no document or an id is given twice, and the readers' errors, which name file, line and
    fault.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".md", ".jsonl"))
    digest = hashlib.sha256()
    documents: dict[str, Document] = {}
    facts: dict[str, Fact] = {}
    for path in files:
        with path.open("rb") as f:
            digest.update(
                f"{path.relative_to(folder).as_posix()}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\0".encode()
            )
        if path.name == FACTS:
            for fact in read_jsonl(path, Fact):
                _add(facts, fact, path)
        else:
            for document in [read_document(path)] if path.suffix == ".md" else read_jsonl(path, Document):
                _add(documents, document, path)
    if not documents:
        raise UsageError(f"{folder} holds no document: add *.md with a front matter, or *.jsonl")
    return KnowledgeBase(tuple(documents.values()), tuple(facts.values()), digest.hexdigest())


def _add(known: dict, record: Document | Fact, path: Path) -> None:
    if known.setdefault(record.id, record) is not record:
        raise UsageError(f"{path}: id {record.id!r} is given a second time: rename one of the two")

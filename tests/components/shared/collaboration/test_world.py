"""The world as it lies in configs/: large enough, free of contradictions, and told by its lore."""

import json
import re
import shutil
from collections import Counter
from itertools import groupby

import bm25s
import pytest

from components.shared.collaboration.world import load_world, world_names
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.storage.paths import configs_root


@pytest.fixture(scope="module")
def world():
    return load_world("wrackmere")


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_world_is_of_real_size(world):
    assert len(world.documents) >= 60
    assert len(world.current_facts()) >= 300
    assert len(world.personas) >= 20
    assert len(world.rules) >= 25
    assert len(world.quests) >= 12
    assert len(world.states) >= 8


def test_documents_are_short_prose(world):
    lengths = {document.id: len(document.text.split()) for document in world.documents}
    assert all(60 <= length <= 150 for length in lengths.values()), lengths


@pytest.mark.parametrize("kind", ["documents", "facts", "personas", "rules", "quests", "states"])
def test_ids_are_unique(world, kind):
    counts = Counter(record.id for record in getattr(world, kind))
    assert max(counts.values()) == 1


def test_names_and_values_never_share_a_word(world):
    names = [*world.lists["entities"], *world.values, *(persona.id for persona in world.personas)]
    names += world.lists["attributes"]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z]+", name) for name in names)


def test_every_entity_has_lore_and_facts(world):
    told = {entity for document in world.documents for entity in document.entities if entity in words(document.text)}
    assert told == set(world.lists["entities"])
    assert {fact.entity for fact in world.current_facts()} == set(world.lists["entities"])


def test_every_fact_is_told_by_a_document_about_its_entity(world):
    told = {
        (entity, word)
        for document in world.documents
        for entity in document.entities
        if entity in words(document.text)
        for word in words(document.text)
    }
    assert [fact for fact in world.facts if (fact.entity, fact.value) not in told] == []


def test_retrieval_finds_the_document_that_tells_a_fact(world):
    index = bm25s.BM25()
    index.index([sorted(words(document.text)) for document in world.documents], show_progress=False)
    facts = world.current_facts()
    found, _ = index.retrieve([[fact.entity, fact.value] for fact in facts], k=5, show_progress=False)
    hits = 0
    for fact, ranks in zip(facts, found, strict=True):
        hits += any(
            fact.entity in (document := world.documents[rank]).entities and fact.value in words(document.text)
            for rank in ranks
        )
    assert hits / len(facts) >= 0.98


def test_an_attribute_has_one_value_at_a_time(world):
    def place(fact):
        return fact.entity, fact.attribute

    for _, facts in groupby(sorted(world.facts, key=lambda f: (*place(f), f.valid_from)), place):
        earlier, *later = facts
        for fact in later:
            assert earlier.valid_to is not None and earlier.valid_to < fact.valid_from
            earlier = fact
        assert earlier.valid_to is None


def test_each_persona_knows_much_but_not_everything(world):
    facts = world.current_facts()
    for persona in world.personas:
        known = sum(persona.id in fact.known_by for fact in facts)
        assert 0.3 * len(facts) < known < 0.7 * len(facts), persona.id


def test_persona_knows_its_home(world):
    for persona in world.personas:
        home = [fact for fact in world.current_facts() if fact.entity == persona.home]
        assert all(persona.id in fact.known_by for fact in home), persona.id


def test_states_give_values_of_the_world(world):
    for state in world.states:
        assert set(state.effects.values()) <= set(world.values), state.id


def test_unknown_world_offers_the_nearest(world):
    assert "wrackmere" in world_names()
    with pytest.raises(UsageError, match="did you mean 'wrackmere'"):
        load_world("wrackmire")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the world that a test may spoil."""
    folder = tmp_path / "worlds" / "wrackmere"
    shutil.copytree(configs_root() / "worlds" / "wrackmere", folder)
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(tmp_path))
    return folder


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("personas.yaml", "home: gate", "home: gatte", r"home of persona osric 'gatte': did you mean 'gate'"),
        ("personas.yaml", "role: warden, ", "", r"personas\.yaml:2: role: Field required"),
        ("quests.yaml", "kind: rescue", "kind: rescu", r"kind of quest undertow 'rescu': did you mean 'rescue'"),
        ("quests.yaml", "- id: undertow", "- id: [undertow", r"quests\.yaml:\d+:\d+: "),
        ("facts.jsonl", '"entity": "armoury"', '"entity": "armory"', r"entity of fact F001 'armory'"),
        ("facts.jsonl", '"osric"', '"oscar"', r"persona of fact F001 'oscar'"),
        ("rules/npc_dialogue.yaml", "severity: hard", "severity: dire", r"npc_dialogue\.yaml:\d+: severity: "),
        ("lore/bridge.md", "---\n", "", r"bridge\.md:1: no front matter"),
        ("lore/bridge.md", "id: bridge", "id: [bridge", r"bridge\.md: front matter: "),
        ("lore/bridge.md", "title: The Toll Bridge\n", "", r"bridge\.md: title: Field required"),
        ("world.yaml", "today: 1200", "today: later", r"world\.yaml: today: "),
    ],
)
def test_spoilt_world_names_file_and_fault(copy, file, old, new, message):
    change(copy / file, old, new)
    with pytest.raises(PipelineError, match=message) as error:
        load_world("wrackmere")
    assert "\n" not in str(error.value)


def test_digest_follows_every_byte(copy, world):
    assert load_world("wrackmere").digest == world.digest
    change(copy / "lore" / "bridge.md", "seven arches", "eight arches")
    load_world.__globals__["_load"].cache_clear()
    assert load_world("wrackmere").digest != world.digest


def test_superseded_facts_are_not_current(world):
    past = [json.loads(fact.model_dump_json()) for fact in world.facts if fact.valid_to is not None]
    assert past
    assert not {fact["id"] for fact in past} & {fact.id for fact in world.current_facts()}

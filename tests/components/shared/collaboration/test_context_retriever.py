import shutil

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.collaboration.context_retriever import ContextRetriever, leaves
from components.shared.contracts.records import Scenario, Split


def ids(hits):
    return [hit.id for hit in hits]


def test_finds_the_document_that_speaks_of_the_query(world):
    retriever = ContextRetriever(world)
    assert ids(retriever.retrieve("who rings the bell at dawn?", 3))[0] == "bell"
    assert ids(retriever.retrieve("THE ORCHARD behind the dyke", 1)) == ["dyke"]


def test_finds_a_document_by_the_facts_about_its_entities(world):
    assert ids(ContextRetriever(world).retrieve("haunted", 5)) == ["mill"]


def test_a_query_without_a_known_word_finds_nothing(world):
    retriever = ContextRetriever(world)
    assert retriever.retrieve("zeppelin", 5) == ()
    assert retriever.retrieve("", 5) == ()
    assert retriever.retrieve("the of and", 5) == ()


def test_only_documents_that_share_a_word_are_found(world):
    assert set(ids(ContextRetriever(world).retrieve("spring", 6))) == {"twin_a", "twin_b"}


def test_ties_go_by_id_whatever_the_order_of_documents(world):
    turned = world.model_copy(update={"documents": world.documents[::-1]})
    for retriever in (ContextRetriever(world), ContextRetriever(turned)):
        assert ids(retriever.retrieve("two wells share a spring", 2)) == ["twin_a", "twin_b"]
        assert ids(retriever.retrieve("two wells share a spring", 1)) == ["twin_a"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(["bell", "dawn", "dyke", "sea", "ferry", "water", "mill", "spring"]), max_size=6))
def test_a_shallower_search_is_a_prefix_of_a_deeper_one(world, words):
    retriever = ContextRetriever(world)
    deep = retriever.retrieve(" ".join(words), 6)
    assert [h.score for h in deep] == sorted((h.score for h in deep), reverse=True)
    for depth in range(1, 6):
        assert retriever.retrieve(" ".join(words), depth) == deep[:depth]


def test_a_scenario_asks_by_what_its_facts_say(world):
    scenario = Scenario(
        id="s", model_type="m", group="g", split=Split.TRAIN, prompt="tell me", state={"knows": ["f07"]}, difficulty=0
    )
    assert [d.id for d in ContextRetriever(world).for_scenario(scenario, 2)] == ["mill"]


def test_the_index_is_built_once_and_read_back_the_same(world, tmp_path):
    built = ContextRetriever(world, tmp_path).retrieve("salt sea water", 4)
    (folder,) = tmp_path.iterdir()
    stamps = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert ContextRetriever(world, tmp_path).retrieve("salt sea water", 4) == built
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps
    shutil.rmtree(folder)
    assert ContextRetriever(world).retrieve("salt sea water", 4) == built


def test_another_world_has_another_index(world, tmp_path):
    ContextRetriever(world, tmp_path)
    ContextRetriever(world.model_copy(update={"digest": "1" * 64}), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_world_without_documents_gives_no_context(world):
    assert ContextRetriever(world.model_copy(update={"documents": ()})).retrieve("bell", 3) == ()


def test_leaves_are_the_strings_of_a_state():
    assert list(leaves({"a": ["x", {"b": "y"}], "c": 3, "d": None})) == ["x", "y"]

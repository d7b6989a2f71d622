"""The store: what a key is made of, what makes an entry count, and what is said of a miss."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_stage import spec_of

from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal, whole
from pipelines.engines.stage_store import StageStore, differences, flat, key_of, key_parts, link


def sealed(folder, kind, text="x"):
    with whole(folder) as temporary:
        (temporary / "file.txt").write_text(text)
        seal(temporary, kind)
    return folder


@pytest.fixture
def seeds(tmp_path):
    return sealed(tmp_path / "seeds", ArtifactKind.TRAJECTORIES)


def parts_of(seeds, **config):
    spec = spec_of("judge")
    return key_parts(spec, spec.config(**config), {"seeds": seeds})


def test_a_key_names_all_that_outputs_follow_from(seeds):
    parts = parts_of(seeds)
    assert {
        "stage",
        "python",
        "code judge/run.py",
        "code catalogue.py",
        "config.bar",
        "config.seed",
        "input.seeds",
        "library.mlflow",
    } <= parts.keys()
    assert parts_of(seeds) == parts


def test_a_key_follows_configuration_and_content_but_not_place(seeds, tmp_path):
    key = key_of(parts_of(seeds))
    assert key_of(parts_of(seeds, bar=3)) != key
    assert key_of(parts_of(sealed(tmp_path / "elsewhere", ArtifactKind.TRAJECTORIES))) == key
    assert key_of(parts_of(sealed(tmp_path / "other", ArtifactKind.TRAJECTORIES, "y"))) != key


def test_a_world_is_part_of_the_key_of_what_reads_it(tmp_path, monkeypatch):
    from components.catalogue import spec_of as real

    spec = real("trajectory_generation")
    world = tmp_path / "worlds" / "small" / "world.yaml"
    world.parent.mkdir(parents=True)
    monkeypatch.setenv("SRL_RLVR_CONFIGS", str(tmp_path))
    found = []
    for text in ("a", "b", "b"):
        world.write_text(text)
        found.append(key_parts(spec, spec.config(world="small"), {})["world"])
    assert found[0] != found[1] == found[2]


def fill(store, key, outputs=("policy", "report")):
    spec = spec_of("judge")
    with store.hold(spec, key, contextlib.nullcontext()) as entry:
        entry.clear({"config.bar": "2"})
        for name in outputs:
            sealed(entry.output(name), spec.all_outputs[name])
    return entry


@pytest.mark.parametrize(
    ("outputs", "fault"),
    [((), "not there"), (("policy",), "not finished"), (("report",), "not finished"), (("policy", "report"), None)],
)
def test_an_entry_counts_when_every_output_is_there(tmp_path, outputs, fault):
    assert fill(StageStore(tmp_path), "k", outputs).fault() == fault


@pytest.mark.parametrize("harm", ["change", "remove", "add", "manifest"])
def test_an_entry_that_does_not_match_its_manifest_is_said_to_be_corrupted(tmp_path, harm):
    entry = fill(StageStore(tmp_path), "k")
    file = entry.output("policy") / "file.txt"
    if harm == "change":
        file.write_text("y")
    elif harm == "remove":
        file.unlink()
    elif harm == "add":
        (file.parent / "more.txt").write_text("z")
    else:
        (file.parent / "manifest.json").write_text("{")
    assert entry.fault().startswith("corrupted: ")


def test_a_miss_is_explained_by_the_nearest_entry(tmp_path):
    store, spec = StageStore(tmp_path), spec_of("judge")
    assert store.explain(spec, {"config.bar": "3"}) == "the first run of this stage"
    for key, parts in {"a": {"config.bar": "2", "code": "1"}, "b": {"config.bar": "2", "code": "2"}}.items():
        with store.hold(spec, key, contextlib.nullcontext()) as entry:
            entry.clear(parts)
    assert store.explain(spec, {"config.bar": "3", "code": "1"}) == "config.bar 2 -> 3"


def test_an_explanation_stays_short(tmp_path):
    store, spec = StageStore(tmp_path), spec_of("judge")
    with store.hold(spec, "a", contextlib.nullcontext()) as entry:
        entry.clear(dict.fromkeys("abcdef", "1"))
    assert store.explain(spec, dict.fromkeys("abcdef", "2")) == "a 1 -> 2; b 1 -> 2; c 1 -> 2; d 1 -> 2; and 2 more"


def test_digests_are_shortened_in_an_explanation():
    assert differences({"code": "a" * 64}, {"code": "b" * 64}) == [f"code {'a' * 12} -> {'b' * 12}"]


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(max_size=2)),
    st.dictionaries(st.sampled_from("abc"), st.text(max_size=2)),
)
def test_keys_are_equal_exactly_where_there_is_no_difference(old, new):
    assert (differences(old, new) == []) == (key_of(old) == key_of(new))


def test_nested_configuration_is_compared_by_dotted_name():
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_links_are_relative_so_that_the_folder_can_be_moved(tmp_path):
    target = sealed(tmp_path / "one" / "store" / "x", ArtifactKind.POLICY)
    link(target, tmp_path / "one" / "run" / "x")
    link(target, tmp_path / "one" / "run" / "x")
    (tmp_path / "one").rename(tmp_path / "two")
    assert (tmp_path / "two" / "run" / "x" / "file.txt").read_text() == "x"

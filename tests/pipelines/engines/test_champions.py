"""Which policy an execution is measured against, on a real registry."""

import json

import pytest

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import ModelRegistry, model_name
from components.shared.storage.artifacts import read_manifest, seal, whole
from pipelines.compilers.kubeflow import compile_dag
from pipelines.configuration import load_settings
from pipelines.engines.champions import accepted_profile, champion, execution_key, given_paths, resolve
from pipelines.engines.stage_store import StageStore

MODEL_TYPE = "npc_dialogue"


def policy(folder, text):
    with whole(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps({"text": text}))
        seal(temporary, ArtifactKind.POLICY)
    return folder


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def bases(tmp_path):
    return {tier: policy(tmp_path / f"{tier}-base", f"{tier} base") for tier in Tier}


def dag_with(bases, *assignments, dag="nightly", tier=Tier.BRONZE):
    names = {"nightly": ["base_uri", "silver_base_uri", "gold_base_uri"]}.get(dag, [])
    given = [f"{name}={bases[level]}" for name, level in zip(names, Tier, strict=False)]
    return compile_dag(dag, load_settings("local", tier, [*given, *assignments]))


def registered(registry, folder, key, compared_with, tier=Tier.BRONZE):
    tags = {"execution_key": key, "compared_with": compared_with}
    version = registry.register(model_name(MODEL_TYPE, tier), folder, tags, "card")
    assert registry.promote(version)
    return version


def test_where_nothing_serves_the_base_stands_in(registry, bases):
    found, _ = resolve(dag_with(bases), registry)
    assert found["champion_uri"] == found["base_uri"] == bases[Tier.BRONZE]
    assert found["gold_champion_uri"] == bases[Tier.GOLD]


@pytest.mark.slow
def test_the_champion_serves_unless_this_very_execution_registered_it(registry, bases, tmp_path):
    base = bases[Tier.BRONZE]
    first = policy(tmp_path / "first", "first")
    registered(registry, first, "key one", read_manifest(base).digest)

    def measured_against(key):
        return read_manifest(champion(registry, MODEL_TYPE, Tier.BRONZE, base, key)).digest

    assert measured_against("key two") == read_manifest(first).digest
    assert measured_against("key one") == read_manifest(base).digest
    second = policy(tmp_path / "second", "second")
    registered(registry, second, "key two", read_manifest(first).digest)
    assert measured_against("key three") == read_manifest(second).digest
    assert measured_against("key two") == read_manifest(first).digest
    assert measured_against("key one") == read_manifest(second).digest


def test_the_execution_key_follows_what_is_executed_and_not_what_serves(bases, tmp_path):
    def key(dag):
        return execution_key(dag, given_paths(dag))

    plain = key(dag_with(bases))
    assert key(dag_with(bases)) == plain
    assert key(dag_with(bases, "srl.steps=7")) != plain
    assert key(dag_with(bases, "seed=7")) != plain
    policy(bases[Tier.GOLD], "another base")
    assert key(dag_with(bases)) != plain


def test_what_nothing_fills_is_asked_for(registry, bases):
    with pytest.raises(UsageError, match="distillation needs traces_uri: add --set traces_uri=DIR"):
        resolve(dag_with(bases, f"student_uri={bases[Tier.GOLD]}", dag="distillation", tier=Tier.GOLD), registry)


def test_an_artifact_that_is_not_there_or_not_whole_is_named_before_anything_runs(registry, bases, tmp_path):
    with pytest.raises(PipelineError, match="base_uri: no artifact at"):
        resolve(dag_with(bases, f"base_uri={tmp_path / 'nowhere'}"), registry)
    (bases[Tier.SILVER] / "config.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"silver_base_uri: .*does not match its manifest"):
        resolve(dag_with(bases), registry)


def test_policies_that_a_script_makes_are_asked_for_by_its_name(registry, tmp_path):
    dag = compile_dag("nightly", load_settings("smollm2", Tier.BRONZE, [f"base_uri={tmp_path / 'nowhere'}"]))
    with pytest.raises(
        UsageError, match=r"base_uri: no policy at .*nowhere: make it with python scripts/build_smollm2.py"
    ):
        resolve(dag, registry)


def dataset(store, name, rows=7):
    with whole(store.root / "data_validation" / name / "dataset") as folder:
        (folder / "profile.json").write_text(json.dumps({"rows": rows}))
        seal(folder, ArtifactKind.DATASET)
    return store.root / "data_validation" / name / "dataset"


def trained_on(registry, folder, key, compared_with, data):
    tags = {"execution_key": key, "compared_with": compared_with, "dataset_digest": data}
    assert registry.promote(registry.register(model_name(MODEL_TYPE, Tier.BRONZE), folder, tags, "card"))


@pytest.mark.slow
def test_a_night_is_compared_with_the_data_of_what_it_is_measured_against(registry, bases, tmp_path):
    store, dag = StageStore(tmp_path / "store"), dag_with(bases)

    def accepted(key, dag=dag):
        return accepted_profile(dag, registry, store, key)

    assert accepted("key one") == "none"
    one, two = dataset(store, "a", 1), dataset(store, "b", 2)
    first, second = policy(tmp_path / "first", "first"), policy(tmp_path / "second", "second")
    base = read_manifest(bases[Tier.BRONZE]).digest
    trained_on(registry, first, "key one", base, read_manifest(one).digest)
    assert accepted("key one") == "none"  # the first night again: all of it is in the store
    assert accepted("key two") == str(one / "profile.json")
    trained_on(registry, second, "key two", read_manifest(first).digest, read_manifest(two).digest)
    assert accepted("key two") == str(one / "profile.json")
    assert accepted("key three") == str(two / "profile.json")
    assert accepted("key three", dag_with(bases, "accepted=none")) == "none"
    (two / "manifest.json").unlink()
    with pytest.raises(PipelineError, match=r"version 2 was trained on data that .* --set accepted=none"):
        accepted("key three")


def test_traces_need_not_be_like_an_earlier_nights_trajectories(registry, bases, tmp_path):
    dag = dag_with(bases, dag="distillation", tier=Tier.SILVER)
    assert accepted_profile(dag, registry, StageStore(tmp_path), "key") == "none"

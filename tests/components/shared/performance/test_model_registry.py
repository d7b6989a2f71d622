"""The registry against real MLflow: on SQLite, from several processes, and behind a real server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.shared.contracts.errors import CorruptArtifact, PipelineError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_store import tracking_uri
from components.shared.performance.model_registry import CHALLENGER, CHAMPION, ModelRegistry, model_name
from components.shared.storage.artifacts import MANIFEST, read_manifest

NAME = model_name("npc_dialogue", Tier.GOLD)

REGISTER = """
import sys
from pathlib import Path
from components.shared.performance.model_registry import ModelRegistry
uri, policy, name = sys.argv[1:]
registry = ModelRegistry(uri)
print("ready", flush=True)
sys.stdin.readline()
print(registry.register(name, Path(policy), {}, "card").number)
"""
DIE_BEFORE_THE_VERSION = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
from components.shared.performance.model_registry import ModelRegistry
uri, policy, name = sys.argv[1:]
MlflowClient.create_model_version = lambda *_, **__: os._exit(9)
ModelRegistry(uri).register(name, Path(policy), {}, "card")
"""


@pytest.fixture
def registry(store_uri):
    return ModelRegistry(store_uri)


def numbers(registry):
    return [version.number for version in registry.versions("npc_dialogue", Tier.GOLD)]


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_same_policy_is_registered_once(registry, make_policy):
    first = registry.register(NAME, make_policy("a"), {"seed": "0"}, "card")
    again = registry.register(NAME, make_policy("copy"), {"seed": "1"}, "another card")
    other = registry.register(NAME, make_policy("b", weights=(3.0,)), {}, "card")
    assert (first.number, again.number, other.number) == (1, 1, 2)
    assert again.tags == first.tags
    assert numbers(registry) == [1, 2]


def test_one_policy_may_be_a_version_of_two_models(registry, make_policy):
    policy = make_policy()
    gold = registry.register(NAME, policy, {}, "card")
    silver = registry.register(model_name("npc_dialogue", Tier.SILVER), policy, {}, "card")
    assert gold.policy_digest == silver.policy_digest
    assert gold.source != silver.source


def test_the_champion_outlives_the_folder_it_came_from(registry, make_policy):
    policy = make_policy()
    digest = read_manifest(policy).digest
    assert registry.champion("npc_dialogue", Tier.GOLD) is None
    registry.promote(registry.register(NAME, policy, {}, "card"))
    shutil.rmtree(policy)
    champion = registry.champion("npc_dialogue", Tier.GOLD)
    assert champion.policy_digest == digest
    assert read_manifest(champion.path).digest == digest
    assert champion.aliases == (CHAMPION,)


def test_altered_files_are_refused_and_registering_again_mends_them(registry, make_policy):
    policy = make_policy()
    version = registry.register(NAME, policy, {}, "card")
    registry.promote(version)
    (registry.fetch(version) / "config.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"config\.json"):
        registry.champion("npc_dialogue", Tier.GOLD)
    assert registry.register(NAME, policy, {}, "card").number == 1
    assert registry.champion("npc_dialogue", Tier.GOLD).number == 1


def test_a_corrupt_policy_is_not_registered(registry, make_policy):
    policy = make_policy()
    (policy / "config.json").write_text("{}")
    with pytest.raises(CorruptArtifact):
        registry.register(NAME, policy, {}, "card")
    assert numbers(registry) == []


def test_a_stale_comparison_does_not_move_the_champion(registry, make_policy):
    base = "digest of the base policy"
    first, second, third = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0, 3.0))
    assert registry.promote(first, over=base), "nothing serves yet"
    assert registry.promote(second, over=first.policy_digest)
    assert not registry.promote(third, over=first.policy_digest), "second came since"
    assert registry.champion("npc_dialogue", Tier.GOLD).number == 2
    assert registry.promote(second, over=base), "asked again by the run that promoted it"


def test_promotion_takes_the_challenger_alias_away(registry, make_policy):
    version = registry.register(NAME, make_policy(), {}, "card")
    assert registry.challenge(version)
    registry.promote(version, approver="ada")
    (listed,) = registry.versions("npc_dialogue", Tier.GOLD)
    assert listed.aliases == (CHAMPION,)
    assert listed.tags["approver"] == "ada"


def test_a_newer_challenger_keeps_its_place(registry, make_policy):
    old, new = (registry.register(NAME, make_policy(f"p{w}", (w,)), {}, "card") for w in (1.0, 2.0))
    assert registry.challenge(new)
    assert not registry.challenge(old)
    assert [CHALLENGER in version.aliases for version in registry.versions("npc_dialogue", Tier.GOLD)] == [False, True]


def test_compare_shows_scores_and_only_the_lineage_that_differs(registry, make_policy):
    a = registry.register(NAME, make_policy("a"), {"score.greedy": "0.5", "seed": "0", "tier": "gold"}, "card")
    b = registry.register(
        NAME, make_policy("b", (3.0,)), {"score.greedy": "0.75", "score.new": "1", "tier": "gold"}, ""
    )
    comparison = registry.compare(a, b)
    assert comparison.scores == {"greedy": (0.5, 0.75), "new": (None, 1.0)}
    assert comparison.lineage == {"policy_digest": (a.policy_digest, b.policy_digest), "seed": ("0", None)}


def test_registered_trusts_only_what_the_registry_still_holds(registry, make_policy, make_report, tmp_path):
    version = registry.register(NAME, make_policy(), {}, "card")
    said = {"name": NAME, "version": version.number, "policy_digest": version.policy_digest}
    reports = {
        name: make_report(Report(stage="registration", summary="", details=said | changed), name)
        for name, changed in {
            "true": {},
            "other digest": {"policy_digest": "0" * 64},
            "other version": {"version": 7},
            "other model": {"name": "reasoning-gold"},
        }.items()
    }
    assert {name: registry.registered(folder) for name, folder in reports.items()} == {
        name: name == "true" for name in reports
    }
    missing = tmp_path / "elsewhere" / "mlflow.db"
    assert not ModelRegistry(f"sqlite:///{missing}").registered(reports["true"])
    assert not missing.parent.exists(), "a question creates no store"
    (registry.fetch(version) / MANIFEST).unlink()
    assert not registry.registered(reports["true"]), "its files are gone"


@pytest.mark.slow
def test_processes_that_register_at_once_on_a_new_store_make_one_version(make_policy, tmp_path):
    uri, policy = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", make_policy()
    processes = [start(REGISTER, uri, policy, NAME) for _ in range(2)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 2
    for p in processes:
        p.stdin.write("go\n")
        p.stdin.flush()
    assert [p.communicate()[0].strip() for p in processes] == ["1"] * 2
    assert numbers(ModelRegistry(uri)) == [1]


@pytest.mark.slow
def test_a_registration_killed_before_its_version_is_finished_by_the_next(store_uri, make_policy):
    policy = make_policy()
    assert start(DIE_BEFORE_THE_VERSION, store_uri, policy, NAME).wait() == 9
    registry = ModelRegistry(store_uri)
    assert numbers(registry) == []
    version = registry.register(NAME, policy, {}, "card")
    assert version.number == 1
    folder = registry.fetch(version)
    assert len([run for run in folder.parents[2].iterdir() if run.is_dir()]) == 1, "the files were not stored twice"


@pytest.mark.slow
def test_behind_a_server_threads_that_register_at_once_leave_one_version(server, make_policy, tmp_path):
    policy = make_policy()
    registries = [ModelRegistry(server, downloads=tmp_path / f"downloads{i}") for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(lambda registry: registry.register(NAME, policy, {"seed": "0"}, "card"), registries))
    assert len({version.number for version in versions}) == 1
    assert numbers(registries[0]) == [versions[0].number]
    registries[0].promote(versions[0])
    champion = registries[0].champion("npc_dialogue", Tier.GOLD)
    assert champion.path.is_relative_to(tmp_path / "downloads0")
    assert read_manifest(champion.path).digest == read_manifest(policy).digest


@pytest.fixture
def server(store_uri, tmp_path):
    """A real MLflow server that keeps its artifacts to itself, on a free loopback port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", store_uri, "--artifacts-destination", str(tmp_path / "served")]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/health", process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url, process):
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)


def test_a_store_out_of_reach_is_one_clear_line(make_policy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        PipelineError, match=r"MLflow store http://127\.0\.0\.1:9: .*check that it can be reached"
    ) as error:
        ModelRegistry("http://127.0.0.1:9").champion("npc_dialogue", Tier.GOLD)
    assert "\n" not in str(error.value)


def test_no_tracking_uri_is_a_usage_error(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI is not set"):
        tracking_uri()


def test_importing_the_registry_does_not_import_mlflow():
    code = "import sys, components.shared.performance.model_registry, components.shared.performance.mlflow_sink\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('mlflow' in sys.modules)"], env=os.environ, check=False
    )
    assert done.returncode == 0

"""Which policies the serving benchmarks measure."""

import sys

import pytest

from benchmarks.measures import read_result
from benchmarks.serving import cost_quality
from benchmarks.serving.tiers import FAMILY, serving_tiers
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import read_manifest, seal

pytestmark = pytest.mark.slow


def test_what_serves_is_measured_and_the_base_where_nothing_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SRL_RLVR_RUNS", str(tmp_path))
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    for text in ("before", "now", "waits"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "model.safetensors").write_text(text)
        seal(tmp_path / text, ArtifactKind.POLICY)
        version = registry.register("npc_dialogue-gold", tmp_path / text, {}, "card")
        if text != "waits":
            registry.promote(version)
    found = serving_tiers("npc_dialogue")
    assert read_manifest(found.pop(Tier.GOLD)).digest == read_manifest(tmp_path / "now").digest
    assert found == {tier: FAMILY / tier for tier in (Tier.BRONZE, Tier.SILVER)}


def test_given_policies_are_taken_as_they_are(tmp_path):
    assert serving_tiers("npc_dialogue", [f"gold={tmp_path}"]) == {Tier.GOLD: tmp_path}
    with pytest.raises(UsageError, match="unknown tier 'golden'"):
        serving_tiers("npc_dialogue", [f"golden={tmp_path}"])
    with pytest.raises(UsageError, match="'gold' is not TIER=DIR: write gold=DIR"):
        serving_tiers("npc_dialogue", ["gold"])


def test_tiers_that_are_worth_the_same_give_no_curve_but_what_they_cost(monkeypatch, capsys):
    same = [f"--policy={tier}={FAMILY / Tier.GOLD}" for tier in (Tier.GOLD, Tier.BRONZE)]
    monkeypatch.setattr(sys, "argv", ["cost_quality", *same, "--scenarios", "30"])
    assert cost_quality.main() == 0
    out = capsys.readouterr().out
    assert "no curve: the dearest tier is better by 0.000, which may be chance" in out
    cost, quality = read_result(out).measures
    assert cost.ours == 1 and quality.ours == quality.peer

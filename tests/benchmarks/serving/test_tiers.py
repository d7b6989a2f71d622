"""Which policies the serving benchmarks measure."""

import sys

import numpy as np
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
    with pytest.raises(UsageError, match="--policy 'gold' is not TIER=FOLDER: write gold=FOLDER"):
        serving_tiers("npc_dialogue", ["gold"])


def test_tiers_that_are_worth_the_same_give_no_curve_but_what_they_cost(monkeypatch, capsys):
    same = [f"--policy={tier}={FAMILY / Tier.GOLD}" for tier in (Tier.GOLD, Tier.BRONZE)]
    monkeypatch.setattr(sys, "argv", ["cost_quality", *same, "--scenarios", "30"])
    assert cost_quality.main() == 0
    out = capsys.readouterr().out
    assert "no curve: the dearest tier is better by 0.000, which may be chance" in out
    cost, quality = read_result(out).measures
    assert cost.ours == 1 and quality.ours == quality.peer


def test_a_night_whose_students_kept_everything_is_measured_as_it_was_before_them(monkeypatch, capsys):
    """The evaluation is played: students as good as Bronze, then their bases, which answer the easy half."""
    asked, tiers = [], [Tier.GOLD, Tier.SILVER, Tier.BRONZE]

    def evaluate(folders, trainer, scenarios, usd):
        asked.append(folders)
        best = np.ones(len(scenarios))
        hard = np.array([len(s.prompt) > np.median([len(s.prompt) for s in scenarios]) for s in scenarios])
        lesser = best if len(asked) == 1 else np.where(hard, 0.0, 1.0)
        return tiers, np.stack([lesser, lesser, best], axis=1), np.ones((len(scenarios), 3)) * [1.0, 2.0, 4.0]

    serving = {tier: FAMILY.parent / f"serves-{tier}" for tier in tiers}
    monkeypatch.setattr(cost_quality, "serving_tiers", lambda *_: serving)
    monkeypatch.setattr(cost_quality, "evaluate", evaluate)
    monkeypatch.setattr(sys, "argv", ["cost_quality", "--scenarios", "300"])
    assert cost_quality.main() == 0
    assert asked[1] == {tier: FAMILY / tier for tier in tiers[:2]} | {Tier.BRONZE: serving[Tier.BRONZE]}
    _, _, cost, apgr = read_result(capsys.readouterr().out).measures
    assert cost.name == "cost of 95 % of bronze's quality, npc_dialogue before distillation"
    assert apgr.ours > 0.5 and cost.ratio.low <= cost.ratio.mean <= cost.ratio.high < 1

"""Registration as its container runs it: what it accepts, what it refuses, what it leaves behind."""

import pytest

from components.entrypoints.execution import Request, execute
from components.registration.spec import SPEC
from components.shared.contracts.errors import GateError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_store import connect
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import ArtifactKind, read_manifest, verify

JUDGED = {"dataset": "d" * 64, "teacher": "e" * 64, "student": "f" * 64, "champion": "c" * 64}


@pytest.fixture
def night(store_uri, make_policy, make_report, tmp_path, monkeypatch):
    """One distillation hop's policy and report, and a call that registers them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    return Night(store_uri, make_policy, make_report, tmp_path)


class Night:
    def __init__(self, uri, make_policy, make_report, folder):
        self.registry = ModelRegistry(uri)
        self._uri, self._make_policy, self._make_report, self._folder = uri, make_policy, make_report, folder
        self._count = 0

    def artifacts(self, weights=(1.0, 2.0), inputs=JUDGED, accepted=True, margin=0.02, tier="gold", **details):
        self._count += 1
        origin = {"stage": "distillation", "config": {"tier": tier, "seed": 7}, "inputs": inputs}
        report = Report(
            stage="distillation",
            summary="kept",
            scalars={} if margin is None else {"quality_margin": margin},
            metrics={"student_greedy": 0.9},
            details={"gate": {"accepted": accepted, "criteria": {}}, **details},
        )
        policy = self._make_policy(f"policy{self._count}", weights, **origin)
        return policy, self._make_report(report, f"evidence{self._count}", **origin)

    def register(self, policy, evidence, name="out", **config):
        config = {"model_type": "npc_dialogue", "tier": "gold", **config}
        inputs = {"policy": policy, "evidence": evidence}
        return execute(Request(spec=SPEC, config=config, inputs=inputs, outputs={"report": self._folder / name}))

    def stored(self, report):
        (version,) = [
            v for v in self.registry.versions("npc_dialogue", Tier.GOLD) if v.number == report.details["version"]
        ]
        return version


def test_an_accepted_policy_becomes_the_champion_with_its_lineage(night, tmp_path, monkeypatch):
    monkeypatch.setenv("SRL_RLVR_EXECUTION_KEY", "key-1")
    policy, evidence = night.artifacts(data={"world_digest": "a" * 64})
    report = night.register(policy, evidence)
    digest = read_manifest(policy).digest
    assert report.details == {
        "name": "npc_dialogue-gold",
        "version": 1,
        "alias": "champion",
        "policy_digest": digest,
        "outcome": "registered",
    }
    assert night.registry.champion("npc_dialogue", Tier.GOLD).policy_digest == digest
    assert night.registry.registered(tmp_path / "out")
    assert night.stored(report).tags == {
        "approver": "gate",
        "compared_with": "c" * 64,
        "dataset_digest": "d" * 64,
        "evidence_digest": read_manifest(evidence).digest,
        "execution_key": "key-1",
        "model_type": "npc_dialogue",
        "parent.student": "f" * 64,
        "parent.teacher": "e" * 64,
        "policy_digest": digest,
        "score.student_greedy": "0.9",
        "seed": "7",
        "tier": "gold",
        "world_digest": "a" * 64,
    }


def test_registering_again_writes_the_same_bytes_and_no_new_version(night, tmp_path):
    policy, evidence = night.artifacts()
    first, again = (night.register(policy, evidence, name) for name in ("first", "again"))
    assert first == again
    manifests = [verify(tmp_path / name, ArtifactKind.REPORT) for name in ("first", "again")]
    assert manifests[0] == manifests[1]
    assert len(night.registry.versions("npc_dialogue", Tier.GOLD)) == 1


def test_the_card_is_the_versions_description(night, tmp_path, store_uri):
    night.register(*night.artifacts())
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert connect(store_uri).get_model_version("npc_dialogue-gold", "1").description == card


def test_manual_promotion_leaves_a_challenger(night):
    report = night.register(*night.artifacts(), promotion="manual")
    assert (report.details["alias"], report.details["outcome"]) == ("challenger", "registered")
    assert night.registry.champion("npc_dialogue", Tier.GOLD) is None
    night.registry.promote(night.stored(report), approver="ada")
    again = night.register(*night.artifacts(), promotion="manual")
    assert again.details["alias"] == "champion", "asking again does not demote it"


def test_a_policy_compared_with_an_old_champion_is_stale(night):
    night.register(*night.artifacts(weights=(1.0,)))
    report = night.register(*night.artifacts(weights=(2.0,)), name="late")
    assert (report.details["alias"], report.details["outcome"]) == ("challenger", "stale")
    assert "another champion came" in report.summary
    assert night.registry.champion("npc_dialogue", Tier.GOLD).number == 1


def test_a_policy_compared_with_the_champion_replaces_it(night):
    first = night.register(*night.artifacts(weights=(1.0,)))
    inputs = JUDGED | {"champion": first.details["policy_digest"]}
    report = night.register(*night.artifacts(weights=(2.0,), inputs=inputs), name="next")
    assert (report.details["version"], report.details["alias"]) == (2, "champion")


def test_the_accepted_policy_of_an_evaluation_is_known_by_its_candidate(night, make_policy, make_report):
    candidate = "a" * 64
    trained = {"stage": "rlvr", "config": {"seed": 1}, "inputs": {"dataset": "d" * 64}}
    policy = make_policy("accepted", accepted="candidate", policy=candidate, **trained)
    judged = {"dataset": "d" * 64, "base": "b" * 64, "candidate": candidate, "champion": "b" * 64}
    report = Report(
        stage="evaluation",
        summary="",
        scalars={"gate_margin": 0.0},
        details={"gate": {"accepted": True, "margin": 0.0}},
    )
    evidence = make_report(report, "evidence", stage="evaluation", config={"seed": 2}, inputs=judged)
    tags = night.stored(night.register(policy, evidence)).tags
    assert (tags["parent.candidate"], tags["compared_with"], tags["seed"]) == (candidate, "b" * 64, "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accepted": False}, "does not accept"),
        ({"accepted": None}, "does not accept"),
        ({"accepted": "true"}, "does not accept"),
        ({"margin": -0.001}, "quality_margin is -0.001"),
        ({"margin": None}, "has no margin"),
        ({"tier": "silver"}, "for tier silver, not gold"),
        ({"data": {"model_type": "reasoning"}}, "for model_type reasoning, not npc_dialogue"),
        ({"inputs": {"dataset": "d" * 64}}, "names no champion"),
    ],
)
def test_evidence_that_does_not_speak_for_the_policy_is_refused(night, tmp_path, change, message):
    with pytest.raises(GateError, match=message):
        night.register(*night.artifacts(**change))
    assert night.registry.versions("npc_dialogue", Tier.GOLD) == []
    assert not (tmp_path / "out").exists()


def test_the_evidence_of_another_policy_is_refused(night):
    policy, _ = night.artifacts()
    _, evidence = night.artifacts(inputs=JUDGED | {"teacher": "0" * 64})
    with pytest.raises(GateError, match="does not judge policy"):
        night.register(policy, evidence)


def test_without_a_registry_nothing_is_written(night, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI"):
        night.register(*night.artifacts())
    assert not (tmp_path / "out").exists()

"""Registration as its container runs it: what it accepts, what it refuses, what it leaves behind."""

import pytest

from components.entrypoints.execution import Request, execute
from components.registration.spec import SPEC
from components.shared.contracts.errors import GateError, UsageError
from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_store import connect
from components.shared.performance.model_registry import ModelRegistry
from components.shared.storage.artifacts import ArtifactKind, read_manifest, seal, verify, write_text

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
    monkeypatch.setenv("SRL_RLVR_REVISION", "abc123")
    monkeypatch.setenv("SRL_RLVR_IMAGE", "sha256:1")
    policy, evidence = night.artifacts(data={"world_digest": "a" * 64})
    report = night.register(policy, evidence)
    digest = read_manifest(policy).digest
    lineage = {
        "compared_with": "c" * 64,
        "dataset_digest": "d" * 64,
        "evidence_digest": read_manifest(evidence).digest,
        "model_type": "npc_dialogue",
        "parent.student": "f" * 64,
        "parent.teacher": "e" * 64,
        "seed": "7",
        "teacher_chain": "e" * 64,
        "tier": "gold",
        "world_digest": "a" * 64,
    }
    assert report.details == {
        "name": "npc_dialogue-gold",
        "version": 1,
        "alias": "champion",
        "policy_digest": digest,
        "outcome": "registered",
        "lineage": lineage,
    }
    assert night.registry.champion("npc_dialogue", Tier.GOLD).policy_digest == digest
    assert night.registry.registered(tmp_path / "out")
    assert night.stored(report).tags == lineage | {
        "approver": "gate",
        "execution_key": "key-1",
        "image": "sha256:1",
        "policy_digest": digest,
        "revision": "abc123",
        "score.student_greedy": "0.9",
    }


def with_adapter(policy, **metadata):
    """The policy with a LoRA adapter beside it, sealed again."""
    said = read_manifest(policy).metadata
    write_text(policy / "adapter" / "adapter_model.safetensors", "weights")
    seal(policy / "adapter", ArtifactKind.POLICY, metadata)
    (policy / "manifest.json").unlink()
    seal(policy, ArtifactKind.POLICY, said)
    return policy


def test_the_chain_of_teachers_and_of_adapters_goes_back_to_the_experts(night, tmp_path):
    """Bronze learns from experts, silver from bronze; the second silver goes on from the first one's adapter."""
    adapter = {"base": "b" * 64, "rank": 8}
    expert = {"data": {"sources": ["scripted"]}}
    bronze = night.artifacts((1.0,), {"dataset": "d" * 64, "champion": "c" * 64}, tier="bronze", **expert)
    assert night.register(*bronze, "b", tier="bronze").details["lineage"]["teacher_chain"] == "scripted"
    teacher = read_manifest(bronze[0]).digest
    inputs = JUDGED | {"teacher": teacher}
    policy, evidence = night.artifacts((2.0,), inputs, tier="silver", started_from="student")
    first = night.register(with_adapter(policy, **adapter), evidence, "s1", tier="silver").details["lineage"]
    assert first["teacher_chain"] == f"{teacher} / scripted"
    assert (first["started_from"], first["adapter_rank"]) == ("f" * 64, "8")
    assert "parent_adapter" not in first
    inputs |= {"champion": read_manifest(policy).digest}
    policy, evidence = night.artifacts((3.0,), inputs, tier="silver", started_from="champion")
    second = night.register(with_adapter(policy, **adapter, seed=1), evidence, "s2", tier="silver").details["lineage"]
    assert second["parent_adapter"] == first["adapter_digest"] != second["adapter_digest"]


@pytest.mark.parametrize("absent", ["base", "rank"])
def test_an_adapter_that_does_not_say_what_it_fits_is_refused(night, absent):
    policy, evidence = night.artifacts()
    said = {name: value for name, value in {"base": "b" * 64, "rank": 8}.items() if name != absent}
    with pytest.raises(GateError, match=f"does not say its {absent}: seal it with"):
        night.register(with_adapter(policy, **said), evidence)


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

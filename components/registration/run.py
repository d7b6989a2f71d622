"""Register the policy that a gate accepted: check the evidence, store the version, move the alias, write the card."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from components.registration.lineage import check_adapter, lineage
from components.registration.model_card import Facts, model_card
from components.registration.spec import Promotion, RegistrationConfig
from components.shared.contracts.environment import EXECUTION_KEY, IMAGE, REVISION
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Outcome
from components.shared.contracts.stage import Report
from components.shared.performance.mlflow_store import registry_uri
from components.shared.performance.model_registry import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    SCORE,
    Registry,
    Version,
    model_name,
    open_registry,
)
from components.shared.storage.artifacts import read_manifest, write_text


def run(config: RegistrationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Register `policy` by what `evidence` says of it.

    Raises GateError where the evidence does not accept this very policy for this tier and model type.
    """
    facts = Facts(
        model_type=config.model_type,
        tier=config.tier,
        policy=inputs["policy"],
        manifest=read_manifest(inputs["policy"]),
        evidence=read_manifest(inputs["evidence"]),
        report=Report.model_validate_json((inputs["evidence"] / "report.json").read_bytes()),
    )
    check_accepted(facts)
    check_subject(facts)
    check_adapter(facts.policy)
    registry = open_registry(registry_uri())
    origin = lineage(facts, registry) | {"compared_with": compared_with(facts)}
    card = model_card(facts)
    name = model_name(config.model_type, config.tier)
    version = registry.register(name, facts.policy, origin | surroundings() | scores(facts), card)
    alias = settle_alias(registry, version, config.promotion, compared_with(facts))
    write_text(outputs["report"] / "model_card.md", card)
    stale = config.promotion == Promotion.AUTO and alias != CHAMPION
    standing = f"{alias or 'kept'}{': another champion came since it was compared' if stale else ''}"
    return Report(
        stage="registration",
        summary=f"{version.name} version {version.number} ({standing})",
        details={
            "name": version.name,
            "version": version.number,
            "alias": alias,
            DIGEST: version.policy_digest,
            "outcome": Outcome.STALE if stale else Outcome.REGISTERED,
            "lineage": dict(origin),
        },
    )


def check_accepted(facts: Facts) -> None:
    """The evidence must hold a gate that accepted, and every margin it reports must be at least 0."""
    stage = facts.report.stage
    gate = facts.report.details.get("gate")
    if not isinstance(gate, dict) or gate.get("accepted") is not True:
        raise GateError(f"the report of {stage} does not accept the policy: register only what its gate accepted")
    margins: dict[str, JsonValue] = {k: v for k, v in facts.report.scalars.items() if k.endswith("margin")}
    if "margin" in gate:
        margins["gate.margin"] = gate["margin"]
    if not margins:
        raise GateError(f"the report of {stage} has no margin: evaluate the policy again")
    for name, margin in margins.items():
        if not isinstance(margin, int | float) or not margin >= 0:
            raise GateError(f"{stage} says accepted, but {name} is {margin}: evaluate the policy again")


def check_subject(facts: Facts) -> None:
    """The evidence must speak of this policy: one execution wrote both, or the policy is the candidate that was judged."""
    policy, evidence = facts.manifest, facts.evidence
    origin = ("stage", "config", "inputs")
    siblings = all(key in evidence.metadata and policy.metadata.get(key) == evidence.metadata[key] for key in origin)
    # An accepted policy is the candidate's files under a manifest of its own, which names the candidate.
    candidate = policy.metadata.get("policy") if policy.metadata.get("accepted") == "candidate" else policy.digest
    if not siblings and candidate != facts.inputs.get("candidate"):
        stage, digest = facts.report.stage, policy.digest[:12]
        raise GateError(
            f"the report of {stage} does not judge policy {digest}: pass the report of the stage that judged it"
        )
    for key, wanted in (("tier", facts.tier), ("model_type", facts.model_type)):
        said = facts.find(key)
        if said is not None and said != wanted:
            raise GateError(f"the evidence is for {key} {said}, not {wanted}: register it as {said}")


def settle_alias(registry: Registry, version: Version, promotion: Promotion, over: str) -> str | None:
    """Which alias the version holds in the end; none where a newer challenger waits already."""
    if promotion == Promotion.AUTO and registry.promote(version, over=over):
        return CHAMPION
    if CHAMPION in version.aliases:
        return CHAMPION
    return CHALLENGER if registry.challenge(version) else None


def surroundings() -> dict[str, str]:
    """What ran this: execution, code and image. Beside the lineage, since they decide nothing of what was made."""
    found = {"execution_key": EXECUTION_KEY, "revision": REVISION, "image": IMAGE}
    return {name: os.environ[variable] for name, variable in found.items() if os.environ.get(variable)}


def scores(facts: Facts) -> dict[str, str]:
    return {f"{SCORE}{name}": str(value) for name, value in facts.report.metrics.items()}


def compared_with(facts: Facts) -> str:
    """The digest of the policy that the candidate was measured against."""
    champion = facts.inputs.get("champion")
    if not isinstance(champion, str):
        raise GateError(
            f"the report of {facts.report.stage} names no champion: a policy is registered only when compared"
        )
    return champion

"""Where a version comes from, as tags: data, rules, seed, teachers, what it was trained from, and its adapter.

No time, host or path: the registry keeps its own times.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from components.registration.model_card import Facts
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Tier
from components.shared.performance.model_registry import Registry, Version, model_name
from components.shared.storage.artifacts import Manifest, read_manifest

ADAPTER = "adapter"
"""Folder of a policy in which the LoRA adapter lies that was merged into it, a sealed policy of its own."""
WEIGHTS = "adapter_model.safetensors"
TEACHERS = {Tier.SILVER: Tier.BRONZE, Tier.GOLD: Tier.SILVER}
"""Whose policy teaches a tier's student."""
BETWEEN = " / "
"""Between a student's teacher and that teacher's own."""
REFUSED, LONGEST = re.compile(r"[^\w\s.:/=+\-@]"), 256
"""What no value of a model package's metadata may hold, and how long it may be."""


def lineage(facts: Facts, registry: Registry) -> dict[str, str]:
    """The tags of a version."""
    parents = {f"parent.{name}": digest for name, digest in facts.inputs.items() if name not in ("dataset", "champion")}
    start = started_from(facts)
    adapter = adapter_of(facts.policy)
    found: Mapping[str, JsonValue] = {
        "model_type": facts.model_type,
        "tier": facts.tier,
        "dataset_digest": facts.inputs.get("dataset"),
        "evidence_digest": facts.evidence.digest,
        "seed": facts.find("seed"),
        "world_digest": facts.find("world_digest"),
        "teacher_chain": teacher_chain(facts, registry),
        "started_from": start,
        **({"adapter_digest": adapter.digest, **_adapter_facts(adapter)} if adapter else {}),
        "parent_adapter": parent_adapter(facts, registry, start) if adapter else None,
        **parents,
    }
    return {name: REFUSED.sub("_", str(value))[:LONGEST] for name, value in found.items() if value is not None}


def teacher_chain(facts: Facts, registry: Registry) -> str | None:
    """Who taught it, and who taught those: policies by digest, at the end the experts by name; none where nobody says."""
    teacher = facts.inputs.get("teacher")
    if isinstance(teacher, str):
        known = _version(facts, registry, TEACHERS.get(facts.tier), teacher)
        earlier = known.tags.get("teacher_chain") if known else None
        return BETWEEN.join(link for link in (teacher, earlier) if link)
    sources = facts.find("sources")
    return "+".join(str(name) for name in sources) if isinstance(sources, list) and sources else None


def started_from(facts: Facts) -> str | None:
    """Digest of the policy that training started from; none where the files do not say."""
    input_name = facts.find("started_from") or facts.report.details.get("started_from")
    if input_name is not None:
        digest = facts.inputs.get(str(input_name))
    else:
        inputs = facts.manifest.metadata.get("inputs")
        digest = inputs.get("policy") if isinstance(inputs, dict) else None
    return digest if isinstance(digest, str) else None


def parent_adapter(facts: Facts, registry: Registry, start: str | None) -> str | None:
    """Digest of the adapter that this one went on from; none where it was new on its base."""
    before = _version(facts, registry, facts.tier, start) if start and start == facts.inputs.get("champion") else None
    return before.tags.get("adapter_digest") if before else None


def adapter_of(policy: Path) -> Manifest | None:
    """The manifest of the policy's adapter: the policy itself, or the one beside it; none for a policy without one."""
    beside = policy / ADAPTER
    if (policy / WEIGHTS).is_file():
        return read_manifest(policy)
    return read_manifest(beside) if beside.is_dir() else None


def check_adapter(policy: Path) -> None:
    """A server checks an adapter by its base and its rank before it takes it: one that does not say them is of no use."""
    adapter = adapter_of(policy)
    for key in ("base", "rank") if adapter else ():
        if adapter and adapter.metadata.get(key) is None:
            raise GateError(
                f"the adapter in {policy} does not say its {key}: seal it with the digest of its base and its rank"
            )


def _adapter_facts(adapter: Manifest) -> dict[str, JsonValue]:
    return {"adapter_base": adapter.metadata["base"], "adapter_rank": adapter.metadata["rank"]}


def _version(facts: Facts, registry: Registry, tier: Tier | None, digest: str) -> Version | None:
    return registry.find(model_name(facts.model_type, tier), digest) if tier else None

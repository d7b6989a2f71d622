"""The model card: what a registered policy is, where it comes from and what was measured, from the run's files alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import Report
from components.shared.storage.artifacts import Manifest

SECTIONS = ("gate", "data", "digests")
"""Details of the evidence that have a section of their own."""

ABSENT = "Not reported by this run."


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that a card is written from."""

    model_type: str
    tier: Tier
    policy: Path
    """The sealed policy folder."""
    manifest: Manifest
    """The policy's."""
    evidence: Manifest
    """The evidence's."""
    report: Report
    """What the stage that judged the policy measured."""

    @property
    def inputs(self) -> dict[str, JsonValue]:
        """Digests of what the judging stage read, by input."""
        inputs = self.evidence.metadata.get("inputs")
        return inputs if isinstance(inputs, dict) else {}

    def find(self, key: str) -> JsonValue:
        """The first that knows `key`: the policy's manifest, the evidence's, their configurations, the report's data."""
        policy, evidence = self.manifest.metadata, self.evidence.metadata
        places = (policy, evidence, policy.get("config"), evidence.get("config"), self.report.details.get("data"))
        return next((place[key] for place in places if isinstance(place, dict) and key in place), None)


def model_card(facts: Facts) -> str:
    """The card as Markdown; equal facts give equal bytes."""
    details = facts.report.details
    parts = [
        f"# {facts.model_type}-{facts.tier}",
        table({"model type": facts.model_type, "tier": facts.tier, **architecture(facts.policy)}),
        "## Gate",
        section(details.get("gate")),
        "## Held-out scores",
        section(dict(facts.report.metrics)),
        *[f"### {heading(name)}\n\n{section(value)}" for name, value in details.items() if name not in SECTIONS],
        "## Lineage",
        table({"policy": facts.manifest.digest, "evidence": facts.evidence.digest, **facts.inputs}),
        "## Data",
        section(details.get("data")),
        "## Configuration",
        *[f"### {heading(stage)}\n\n{section(config)}" for stage, config in configurations(facts).items()],
        "## Limits",
        limits(facts),
    ]
    return "\n\n".join(parts) + "\n"


def configurations(facts: Facts) -> dict[str, JsonValue]:
    """By stage: the configuration that made the policy and the one that judged it."""
    manifests = (facts.manifest.metadata, facts.evidence.metadata)
    return {str(metadata["stage"]): metadata.get("config") for metadata in manifests if "stage" in metadata}


def limits(facts: Facts) -> str:
    """What the measurements do not cover, as far as the files say."""
    dataset, champion = (str(facts.inputs.get(name, "none"))[:12] for name in ("dataset", "champion"))
    return "\n".join(
        [
            f"- Scores hold for model type {facts.model_type} on the held-out scenarios of dataset {dataset}; nothing else "
            "was measured.",
            f"- It was compared with champion {champion} and the policies listed under Lineage, no others.",
            "- A score without an interval above is a point estimate.",
        ]
    )


def architecture(policy: Path) -> dict[str, JsonValue]:
    """What the policy's own files say: architecture, shape and the number of stored parameters."""
    config: dict[str, JsonValue] = {}
    for name in ("config.json", "adapter_config.json"):
        if (policy / name).is_file():
            config |= json.loads((policy / name).read_text(encoding="utf-8"))
    keys = (
        "architectures",
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "peft_type",
        "r",
        "base_model_name_or_path",
    )
    shape = {key.replace("_", " "): config[key] for key in keys if config.get(key) is not None}
    return {**shape, "stored parameters": sum(parameters(path) for path in policy.glob("*.safetensors"))}


def parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, read from its header: 8 bytes of length, then JSON."""
    with path.open("rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def section(value: JsonValue) -> str:
    """A value as what fits it: rows of records, pairs with nested records below them, a list, or one line."""
    if isinstance(value, list) and value:
        rows = [row for row in value if isinstance(row, dict)]
        if len(rows) == len(value):
            return rows_table(rows)
        return "\n".join(f"- {cell(item)}" for item in value)
    if not isinstance(value, dict):
        return cell(value) or ABSENT
    nested = {name: inner for name, inner in value.items() if isinstance(inner, dict) and not is_interval(inner)}
    if not value or is_interval(value):
        return cell(value) if value else ABSENT
    if len(nested) == len(value):
        return rows_table([{"": heading(name), **row} for name, row in nested.items()])
    flat = table({name: inner for name, inner in value.items() if name not in nested})
    return "\n\n".join([flat, *[f"{heading(name)}:\n\n{section(inner)}" for name, inner in nested.items()]])


def is_interval(value: JsonValue) -> bool:
    return isinstance(value, dict) and value.keys() >= {"mean", "low", "high"}


def table(pairs: Mapping[str, JsonValue]) -> str:
    """Two columns: name and value."""
    return rows_table([{"": heading(name), "value": value} for name, value in pairs.items()])


def rows_table(rows: Sequence[Mapping[str, JsonValue]]) -> str:
    """One line a row; a column for each key of any row, in the order of first use."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[heading(column) for column in columns], ["---"] * len(columns)]
    lines += [[cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def heading(name: str) -> str:
    return cell(name.replace("_", " "))


def cell(value: JsonValue) -> str:
    """One table cell on one line: numbers to four digits, intervals in brackets, nested values as JSON."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and is_interval(value):
        count = f" (n = {value['n']})" if "n" in value else ""
        return f"{cell(value['mean'])} [{cell(value['low'])}, {cell(value['high'])}]{count}"
    if isinstance(value, list) and all(isinstance(item, int | float | str) for item in value):
        return f"[{', '.join(map(cell, value))}]"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return " ".join(text.replace("|", "\\|").split())

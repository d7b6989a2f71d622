"""The counts as a page to read."""

from collections.abc import Sequence
from typing import Any

from components.shared.contracts.records import Rejected


def as_markdown(model_type: str, counts: dict[str, Any], samples: Sequence[Rejected]) -> str:
    """Tables of what was read, kept and refused, and a few refused records."""
    parts = [f"# Data validation: {model_type}"]
    files = ("scenarios", "trajectories")
    rows = [(name, *(counts[name][key] for key in ("read", "kept", "quarantined"))) for name in files]
    parts.append(table(("file", "read", "kept", "quarantined"), rows))
    splits = ("train", "validation", "test")
    rows = [(name, *(counts[name].get(split, 0) for split in splits)) for name in files]
    parts.append(table(("kept", *splits), rows))
    for title, key in (("Refused here", "rules"), ("Refused earlier", "carried")):
        body = table(("rule", "records"), list(counts[key].items())) if counts[key] else "None."
        parts.append(f"## {title}\n\n{body}")
    if samples:
        parts.append("## Samples\n\n" + "\n".join(f"- `{r.rule}`: {r.reason}" for r in samples))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

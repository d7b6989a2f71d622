"""Prompts with the answers a policy gave where it was accepted: what a swap compares the served policy with."""

from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Record
from components.shared.storage.jsonl import read_jsonl

PROMPTS = "canary.jsonl"
"""File of canary prompts, in a policy's folder or by itself."""
SAMPLES = "samples.jsonl"
"""File of an evaluation's report with the answers of every role to the same held-out prompts."""


class CanaryPrompt(Record):
    """A prompt with the policy's greedy answer."""

    prompt: str
    completion: str
    max_tokens: int


def read_canaries(source: Path, role: str = "candidate", max_tokens: int = 128) -> tuple[CanaryPrompt, ...]:
    """The canary prompts in a policy's folder, an evaluation's report folder, or a file.

    Of an evaluation, the answers of `role`; they ended by themselves within `max_tokens`. Raises UsageError where there are
    none.
    """
    if (source / PROMPTS).is_file():
        return tuple(read_jsonl(source / PROMPTS, CanaryPrompt))
    if (source / SAMPLES).is_file():
        return tuple(_sample(line, role, source, max_tokens) for line in _lines(source / SAMPLES))
    if source.is_file():
        return tuple(read_jsonl(source, CanaryPrompt))
    raise UsageError(f"{source} holds no canary prompts: pass the evaluation's report folder, or a {PROMPTS}")


def _lines(file: Path) -> list[dict[str, JsonValue]]:
    shape = TypeAdapter(dict[str, JsonValue])
    try:
        return [shape.validate_json(line) for line in file.read_bytes().splitlines()]
    except ValidationError as error:
        raise UsageError(f"{file}: {error.errors()[0]['msg']}: produce the report again") from error


def _sample(line: dict[str, JsonValue], role: str, source: Path, max_tokens: int) -> CanaryPrompt:
    if not isinstance(line.get("prompt"), str) or not isinstance(line.get(role), str):
        raise UsageError(f"{source / SAMPLES} has no answers of {role!r}: pass the evaluation's report folder")
    return CanaryPrompt(prompt=str(line["prompt"]), completion=str(line[role]), max_tokens=max_tokens)

"""A game world: lore, typed facts, personas, rules, quests and states, read from one folder of configs/worlds/.

    world.yaml       name, version, summary, and the closed lists its facts draw on
    lore/*.md        documents: a front matter of id, title and entities, then prose
    facts.jsonl      one typed fact a line
    personas.yaml    who can speak
    rules.yaml       what must hold, as CEL expressions with examples
    quests.yaml      what a story can be about
    states.yaml      states of the world that scenarios are set in
"""

import functools
import hashlib
from pathlib import Path

import yaml
from pydantic import Field, JsonValue, ValidationError

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Record
from components.shared.storage.jsonl import read_jsonl
from components.shared.storage.paths import configs_root


class Document(Record):
    """One piece of lore."""

    id: str
    title: str
    entities: tuple[str, ...]
    """Entities the text is about."""
    text: str


class Fact(Record):
    """Something true in the world, as a triple with a time and an audience."""

    id: str
    entity: str
    attribute: str
    value: str
    valid_from: int
    """First day on which it holds."""
    valid_to: int | None = None
    """Last day on which it holds; none while it holds still."""
    known_by: tuple[str, ...]
    """Persona ids that know it."""


class Persona(Record):
    """Somebody who can speak."""

    id: str
    name: str
    role: str
    order: str
    """The class of role that rules speak of."""
    voice: str
    """How they talk, in one line, for a teacher's prompt."""
    home: str
    """The entity they live at."""


class RuleExample(Record):
    """A case written beside a rule, with the answer that the rule must give."""

    given: dict[str, JsonValue]
    holds: bool


class Rule(Record):
    """One rule of the world."""

    id: str
    severity: str = Field(pattern="^(hard|graded)$")
    weight: float = Field(default=1.0, gt=0)
    """Share in the graded score; without meaning for a hard rule."""
    model_types: tuple[str, ...]
    when: str = "true"
    """CEL: whether the rule speaks of this case at all."""
    must: str
    """CEL over `scenario`, `facts` and `action`: what has to hold then."""
    message: str
    examples: tuple[RuleExample, ...] = Field(min_length=1)


class Quest(Record):
    """Something a story can be about."""

    id: str
    title: str
    kind: str
    place: str
    item: str
    summary: str


class WorldState(Record):
    """A state of the world, such as a siege or a flood."""

    id: str
    title: str
    effects: dict[str, JsonValue]
    summary: str


class World(Record):
    """All of one world, in memory."""

    name: str
    version: int
    summary: str
    lists: dict[str, tuple[str, ...]]
    """Closed lists by name (entities, attributes, values, roles, ...)."""
    documents: tuple[Document, ...]
    facts: tuple[Fact, ...]
    personas: tuple[Persona, ...]
    rules: tuple[Rule, ...]
    quests: tuple[Quest, ...]
    states: tuple[WorldState, ...]
    digest: str
    """SHA-256 over the folder's files: the world's identity."""


def world_names() -> list[str]:
    """The worlds that configs/worlds/ holds."""
    return sorted(p.parent.name for p in (configs_root() / "worlds").glob("*/world.yaml"))


def load_world(name: str) -> World:
    """The world in configs/worlds/NAME. Raises UsageError naming file and fault where it is missing or malformed."""
    folder = configs_root() / "worlds" / name
    if not (folder / "world.yaml").is_file():
        raise unknown("world", name, world_names())
    return _load(folder)


@functools.lru_cache(maxsize=4)
def _load(folder: Path) -> World:
    def items(file: str) -> list[dict[str, JsonValue]]:
        return read_yaml(folder / file) or []

    try:
        return World(
            **read_yaml(folder / "world.yaml"),
            documents=tuple(read_document(p) for p in sorted((folder / "lore").glob("*.md"))),
            facts=tuple(read_jsonl(folder / "facts.jsonl", Fact)),
            personas=tuple(Persona(**p) for p in items("personas.yaml")),
            rules=tuple(Rule(**r) for r in items("rules.yaml")),
            quests=tuple(Quest(**q) for q in items("quests.yaml")),
            states=tuple(WorldState(**s) for s in items("states.yaml")),
            digest=folder_digest(folder),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(f"world {folder.name}: {error.title} {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error


def read_document(path: Path) -> Document:
    """A Markdown document with a YAML front matter of id, title and entities."""
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise UsageError(f"{path}:1: no front matter between --- lines: add id, title and entities")
    return Document(**yaml.safe_load(parts[1]), text=parts[2].strip())


def read_yaml(path: Path):
    """A YAML file's value; a fault names file, line and column."""
    if not path.is_file():
        raise UsageError(f"no file {path}: create it")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UsageError(f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem}: mend the YAML there") from error


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative names and bytes of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

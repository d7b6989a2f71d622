"""A game world: lore, typed facts, personas, rules, quests and states, read from one folder of configs/worlds/.

world.yaml       name, version, summary, today, and the closed lists its facts draw on
lore/*.md        documents: a front matter of id, title and entities, then prose
facts.jsonl      one typed fact a line
personas.yaml    who can speak
rules/*.yaml     what must hold, as CEL expressions with examples: one file a model type
quests.yaml      what a story can be about
states.yaml      states of the world that scenarios are set in
toxic.yaml       words that no answer may hold; without the file there are none
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, JsonValue, ValidationError

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Record
from components.shared.storage.jsonl import read_jsonl
from components.shared.storage.paths import configs_root
from components.shared.storage.yaml_files import read_mapping, read_yaml

FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where it is built in: ten times as fast as the loader in Python."""
R = TypeVar("R", bound=Record)


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
    circles: tuple[str, ...] = ()
    """Names of the world's lists of entities that they hear talked about."""


class RuleExample(Record):
    """A case written beside a rule, with the answer that the rule must give."""

    given: dict[str, JsonValue]
    """The variables that the rule reads."""
    holds: bool
    """True where the rule holds or does not apply, False where it is broken."""


class Rule(Record):
    """One rule of the world."""

    id: str
    source: str
    """File and line, for messages."""
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
    today: int
    """The day on which scenarios are set."""
    lists: dict[str, tuple[str, ...]]
    """Closed lists by name (entities, attributes, values, roles, ...)."""
    documents: tuple[Document, ...]
    facts: tuple[Fact, ...]
    personas: tuple[Persona, ...]
    rules: tuple[Rule, ...]
    quests: tuple[Quest, ...]
    states: tuple[WorldState, ...]
    toxic: tuple[str, ...] = ()
    """Words and phrases that no answer may hold."""
    digest: str
    """SHA-256 over the folder's files: the world's identity."""

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that a fact can have, attribute by attribute."""
        return tuple(value for attribute in self.lists["attributes"] for value in self.lists[attribute])

    def current_facts(self) -> tuple[Fact, ...]:
        """The facts that hold today."""
        return tuple(f for f in self.facts if f.valid_from <= self.today <= (f.valid_to or self.today))

    def rules_for(self, model_type: str) -> tuple[Rule, ...]:
        """The rules that concern a model type."""
        return tuple(rule for rule in self.rules if model_type in rule.model_types)


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
    world = _record(
        World,
        folder / "world.yaml",
        {
            **read_mapping(folder / "world.yaml"),
            "documents": [read_document(path) for path in sorted((folder / "lore").glob("*.md"))],
            "facts": list(read_jsonl(folder / "facts.jsonl", Fact)),
            "personas": read_records(folder / "personas.yaml", Persona),
            "rules": [rule for path in sorted((folder / "rules").glob("*.yaml")) for rule in read_rules(path)],
            "quests": read_records(folder / "quests.yaml", Quest),
            "states": read_records(folder / "states.yaml", WorldState),
            "toxic": read_words(folder / "toxic.yaml"),
            "digest": folder_digest(folder),
        },
    )
    check_references(world)
    return world


def check_references(world: World) -> None:
    """Raise UsageError where a record speaks of something that the world's closed lists do not hold."""
    personas = [persona.id for persona in world.personas]
    for fact in world.facts:
        _in_list(world, "attributes", f"attribute of fact {fact.id}", fact.attribute)
        _in_list(world, "entities", f"entity of fact {fact.id}", fact.entity)
        _in_list(world, fact.attribute, f"value of fact {fact.id}", fact.value)
        for name in fact.known_by:
            if name not in personas:
                raise unknown(f"persona of fact {fact.id}", name, personas)
    for document in world.documents:
        _in_list(world, "entities", f"entity of document {document.id}", *document.entities)
    for persona in world.personas:
        _in_list(world, "roles", f"role of persona {persona.id}", persona.role)
        _in_list(world, "orders", f"order of persona {persona.id}", persona.order)
        _in_list(world, "entities", f"home of persona {persona.id}", persona.home)
        _in_list(world, "circles", f"circle of persona {persona.id}", *persona.circles)
    for quest in world.quests:
        _in_list(world, "quest_kinds", f"kind of quest {quest.id}", quest.kind)
        _in_list(world, "places", f"place of quest {quest.id}", quest.place)
        _in_list(world, "items", f"item of quest {quest.id}", quest.item)
    for state in world.states:
        _in_list(world, "entities", f"entity of state {state.id}", *state.effects)


def _in_list(world: World, list_name: str, what: str, *names: str) -> None:
    for name in names:
        if name not in world.lists.get(list_name, ()):
            raise unknown(what, name, world.lists.get(list_name, ()))


def read_document(path: Path) -> Document:
    """A Markdown document with a YAML front matter of id, title and entities."""
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise UsageError(f"{path}:1: no front matter between --- lines: add id, title and entities")
    try:
        front = yaml.load(parts[1], FAST_LOADER)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: front matter: {' '.join(str(error).split())}: mend the YAML there") from error
    return _record(Document, path, {**(front if isinstance(front, dict) else {}), "text": parts[2].strip()})


def read_rules(path: Path) -> list[Rule]:
    """The rules of one file, which concern the model type that the file is named after unless they name others."""
    return [
        _record(Rule, f"{path}:{line}", {"model_types": (path.stem,), **entry, "source": f"{path.name}:{line}"})
        for entry, line in _entries(path)
    ]


def read_records(path: Path, shape: type[R]) -> list[R]:
    """The records of one YAML list."""
    return [_record(shape, f"{path}:{line}", entry) for entry, line in _entries(path)]


def read_words(path: Path) -> list[str]:
    """The words of one YAML list; none where there is no file."""
    words = read_yaml(path) or [] if path.is_file() else []
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise UsageError(
            f"{path}: not a list of words: write each as '- word', in quotes where YAML reads it otherwise"
        )
    return words


def _record(shape: type[R], where: Path | str, fields: Mapping[str, Any]) -> R:
    try:
        return shape(**fields)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UsageError(f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}: mend it there") from error


def _entries(path: Path) -> list[tuple[dict[str, Any], int]]:
    """The mappings of a YAML list, each with its line."""
    items = read_yaml(path) or []
    if not isinstance(items, list):
        raise UsageError(f"{path}:1: a {type(items).__name__}, not a list: begin each entry with '- id:'")
    node = yaml.compose(path.read_text(encoding="utf-8"), FAST_LOADER)
    lines = [item.start_mark.line + 1 for item in node.value] if node else []
    for item, line in zip(items, lines, strict=True):
        if not isinstance(item, dict):
            raise UsageError(f"{path}:{line}: a {type(item).__name__}, not a mapping: begin the entry with '- id:'")
    return list(zip(items, lines, strict=True))


def folder_digest(folder: Path) -> str:
    """SHA-256 over the relative names and bytes of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

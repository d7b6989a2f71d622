"""How a tale is told: the grammar of its beats, what a scenario asks of it, and what each beat must agree with.

A plan is four or five beats, each a title and the words of its fields:

    opening PLACE TONE ; obstacle ENTITY VALUE ; turn HELPER GAIN MOVE ; price PAYER COST ;
    ending PLACE ACTOR MEANS DEED CAUSE ECHO

A short tale pays no price. What is right is derived here in Python for the judges that training uses; evaluation's
check derives it a second time, from the world's rules as data (rules/story_generation.yaml). Neither reads the other.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import contains

from pydantic import JsonValue

from components.shared.collaboration.world import World
from components.shared.contracts.errors import CorruptArtifact, UsageError, unknown

Plan = dict[str, dict[str, str]]
"""The fields of each beat by its title, in the order told."""

BEATS: dict[str, tuple[str, ...]] = {
    "opening": ("place", "tone"),
    "obstacle": ("entity", "value"),
    "turn": ("helper", "gain", "move"),
    "price": ("payer", "cost"),
    "ending": ("place", "actor", "means", "deed", "cause", "echo"),
}
SHAPES = {"long": tuple(BEATS), "short": tuple(title for title in BEATS if title != "price")}
MOODS = ("merry", "sober", "grim")
TONES = ("bright", "hushed", "bleak")
HALT, RETURN = MOVES = ("halt", "return")
PARTS, BREAKS, FALLS = COSTS = ("parts", "breaks", "falls")
ECHOES = {None: "feast", PARTS: "longing", BREAKS: "lament", FALLS: "mourning"}
"""What the ending remembers of each price, and of none."""
HANDS = "hands"
"""The means of whoever has nothing to use."""
PEACE = "peace"
"""The cause of a tale of the kinds in which nobody owes anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tale:
    """What a scenario asks for, looked up in the world."""

    hero: str
    home: str
    kind: str
    place: str
    item: str
    effects: Mapping[str, str]
    """What the state of the world changes: entity to value, the most told first."""
    mood: str
    ally: str
    """Who must appear by the turn."""
    forbidden: str
    """What must not be named."""
    length: str
    grave: bool
    """Whether the quest's kind darkens the tone."""
    homeward: bool
    """Whether the quest's kind ends where the hero lives."""
    deed: str
    """What ends a quest of this kind."""
    cause: str
    """For whose sake the ending's deed is done: by the hero's order, save where nothing is owed."""

    @property
    def weight(self) -> int:
        """How heavy the tale is, from 0 to 2."""
        return min(MOODS.index(self.mood) + self.grave, 2)

    @property
    def obstacles(self) -> tuple[tuple[str, str], ...]:
        """The state's effects that may be named."""
        return tuple(effect for effect in self.effects.items() if effect[0] != self.forbidden)

    @property
    def cost(self) -> str | None:
        """The price that is due; a short tale pays none."""
        return self.cost_at(self.weight)

    def cost_at(self, weight: int) -> str | None:
        """The price of a tale as heavy as `weight`: what is carried home arrives whole."""
        if self.length == "short":
            return None
        return PARTS if COSTS[weight] == BREAKS and self.homeward else COSTS[weight]

    def payer(self, cost: str) -> str:
        """Who or what is gone once `cost` is paid."""
        return {PARTS: self.ally, BREAKS: self.item, FALLS: self.hero}[cost]


class Grammar:
    """The closed vocabulary of one world's tales, and the tales that its scenarios ask for."""

    def __init__(self, world: World):
        self.personas = {persona.id: persona for persona in world.personas}
        self.quests = {quest.id: quest for quest in world.quests}
        self.states = {state.id: {e: str(value) for e, value in state.effects.items()} for state in world.states}
        self.deeds = _paired(world, "quest_kinds", "quest_deeds")
        self.causes = _paired(world, "orders", "order_causes")
        self.grave, self.homeward, self.unowed = (
            frozenset(_listed(world, f"{name}_kinds")) for name in ("grave", "homeward", "unowed")
        )
        for what, name, known in (
            *(("quest kind", quest.kind, self.deeds) for quest in world.quests),
            *(("order", persona.order, self.causes) for persona in world.personas),
        ):
            if name not in known:
                raise unknown(f"{what} in world {world.name}", name, known)
        self.words = self._words()
        self.vocabulary = self._vocabulary()
        self._known: dict[str, Container[str]] = {
            "hero": self.personas,
            "quest": self.quests,
            "world_state": self.states,
            "mood": MOODS,
            "required": self.personas,
            "forbidden": frozenset(self.vocabulary),
            "length": SHAPES,
        }
        self._domains = {title: tuple(self.words[field] for field in fields) for title, fields in BEATS.items()}

    def _words(self) -> dict[str, dict[str, None]]:
        """The words that each field may hold, in the world's order."""
        cast, quests, effects = list(self.personas), self.quests.values(), self.states.values()
        places = [*(quest.place for quest in quests), *(persona.home for persona in self.personas.values())]
        items = [quest.item for quest in quests]
        words: dict[str, Iterable[str]] = {
            "place": places,
            "tone": TONES,
            "entity": [entity for effect in effects for entity in effect],
            "value": [value for effect in effects for value in effect.values()],
            "helper": cast,
            "gain": items,
            "move": MOVES,
            "payer": [*cast, *items],
            "cost": COSTS,
            "actor": cast,
            "means": [*items, HANDS],
            "deed": self.deeds.values(),
            "cause": [*self.causes.values(), PEACE],
            "echo": ECHOES.values(),
        }
        return {field: dict.fromkeys(listed) for field, listed in words.items()}

    def _vocabulary(self) -> tuple[str, ...]:
        """Every word of prompts and plans. Raises UsageError for a name that is not one word."""
        prompted = (*("quest", "need", "shun", "=", ";"), *SHAPES, *MOODS, *self.deeds, *self.states)
        told = (word for listed in self.words.values() for word in listed)
        vocabulary = tuple(dict.fromkeys((*prompted, *BEATS, *told)))
        for word in vocabulary:
            if len(word.split()) != 1:
                raise UsageError(f"story word {word!r} is not one word: rename it in the world's files")
        return vocabulary

    def read(self, state: Mapping[str, JsonValue]) -> dict[str, str]:
        """A scenario's state, held against this world. Raises CorruptArtifact where it does not speak of it."""
        read = {name: str(state.get(name)) for name in self._known}
        for name, words in self._known.items():
            if read[name] not in words:
                raise CorruptArtifact(f"story state has {name} {read[name]!r}: generate the scenario again")
        return read

    def tale(self, state: Mapping[str, JsonValue]) -> Tale:
        """The tale that a scenario's state asks for. Raises CorruptArtifact where the state is not of this world."""
        asked = self.read(state)
        hero, quest = self.personas[asked["hero"]], self.quests[asked["quest"]]
        return Tale(
            hero=hero.id,
            home=hero.home,
            kind=quest.kind,
            place=quest.place,
            item=quest.item,
            effects=self.states[asked["world_state"]],
            mood=asked["mood"],
            ally=asked["required"],
            forbidden=asked["forbidden"],
            length=asked["length"],
            grave=quest.kind in self.grave,
            homeward=quest.kind in self.homeward,
            deed=self.deeds[quest.kind],
            cause=PEACE if quest.kind in self.unowed else self.causes[hero.order],
        )

    def parse(self, text: str) -> Plan | None:
        """The plan that `text` tells, or none where it leaves the grammar."""
        beats = [beat.split(" ") for beat in " ".join(text.split()).split(" ; ")]
        if tuple(beat[0] for beat in beats) not in SHAPES.values():
            return None
        if not all(self._speaks(title, words) for title, *words in beats):
            return None
        return {title: dict(zip(BEATS[title], words, strict=True)) for title, *words in beats}

    def _speaks(self, title: str, words: Sequence[str]) -> bool:
        """Whether the words fill the fields of a beat, each from its own list."""
        domains = self._domains[title]
        return len(words) == len(domains) and all(map(contains, domains, words))


def render(title: str, fields: Mapping[str, str]) -> str:
    """A beat as the policy writes it; every beat but the last ends in a semicolon."""
    words = " ".join((title, *(fields[name] for name in BEATS[title])))
    return words if title == "ending" else f"{words} ;"


def _listed(world: World, name: str) -> tuple[str, ...]:
    if name not in world.lists:
        raise UsageError(
            f"world {world.name} has no list {name!r}: add it to lists in world.yaml to tell stories there"
        )
    return world.lists[name]


def _paired(world: World, keys: str, values: str) -> dict[str, str]:
    left, right = _listed(world, keys), _listed(world, values)
    if len(left) != len(right):
        raise UsageError(f"world {world.name}: {len(left)} {keys} but {len(right)} {values}: give each of them one")
    return dict(zip(left, right, strict=True))


@dataclass(frozen=True, slots=True)
class Telling:
    """A plan held against its tale. Later beats are judged by what was told before them, so one slip is one fault."""

    tale: Tale
    plan: Plan

    @property
    def spent(self) -> str | None:
        """Who or what the price has taken out of the tale."""
        return self.plan["price"]["payer"] if "price" in self.plan else None

    @property
    def whereabouts(self) -> str:
        """Where the hero is by the ending: where the tale opened, unless the turn travels."""
        return self.tale.home if self.plan["turn"]["move"] == RETURN else self.plan["opening"]["place"]

    def gates(self) -> dict[str, bool]:
        """The forbidden element, and the tale's continuity with itself."""
        turn, ending = self.plan["turn"], self.plan["ending"]
        return {
            "forbidden": all(self.tale.forbidden not in fields.values() for fields in self.plan.values()),
            "item": ending["means"] in (HANDS, turn["gain"]) and ending["means"] != self.spent,
            "actor": ending["actor"] in (self.tale.hero, turn["helper"]) and ending["actor"] != self.spent,
            "place": ending["place"] == self.whereabouts,
        }

    def beats(self) -> dict[str, bool]:
        """What single beats show, by name; `ending` leaves out what only the outcome shows."""
        tale, plan = self.tale, self.plan
        opening, obstacle, turn = plan["opening"], plan["obstacle"], plan["turn"]
        return {
            "opening": opening["place"] == tale.place,
            "tone": opening["tone"] == TONES[tale.weight],
            "obstacle": (obstacle["entity"], obstacle["value"]) in tale.obstacles,
            "turn": turn["helper"] == tale.ally and turn["gain"] == tale.item,
            "travel": turn["move"] == (RETURN if tale.homeward else HALT),
            "price": self._price_is_due(),
            "ending": self._ending_follows(),
        }

    def outcome(self) -> dict[str, bool]:
        """What only the whole tale shows: for whose sake it ended, and whether the price pays off."""
        ending = self.plan["ending"]
        paid = self.plan["price"]["cost"] if "price" in self.plan else None
        return {"cause": ending["cause"] == self.tale.cause, "echo": ending["echo"] == ECHOES[paid]}

    def _price_is_due(self) -> bool:
        due, price = self.tale.cost, self.plan.get("price")
        if due is None or price is None:
            return due is None and price is None
        return price["cost"] == due and price["payer"] == self.tale.payer(due)

    def _ending_follows(self) -> bool:
        ending, turn = self.plan["ending"], self.plan["turn"]
        return (
            ending["place"] == self.whereabouts
            and ending["actor"] == (turn["helper"] if self.spent == self.tale.hero else self.tale.hero)
            and ending["means"] == (HANDS if self.spent == turn["gain"] else turn["gain"])
            and ending["deed"] == self.tale.deed
        )

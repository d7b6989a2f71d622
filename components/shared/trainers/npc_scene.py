"""What is right in one conversation: the world's rules of conduct as the training judges know them.

Evaluation's check takes none of the judgements below: it asks the world's CEL rules
(configs/worlds/*/rules/npc_dialogue.yaml), which derive them a second time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from components.shared.collaboration.world import Fact
from components.shared.contracts.records import Record

Answer = dict[str, str]
"""What is answered: fact, boundary, intent, tone, address, subject, body and closing."""
BOUNDARIES = ("open", "secret", "unknown")
INTENTS = ("tell", "hint", "barter", "refuse", "warn", "admit")
TONES = ("warm", "plain", "cold")
RELATIONS = ("foe", "new", "pal", "kin")
MOODS = ("calm", "angry")
MANNERS = ("ask", "beg", "threat")
ADDRESSES = {"foe": "wretch", "new": "traveller", "pal": "friend", "kin": "cousin"}
STOCK = {"hint": "whispered", "barter": "costly", "refuse": "private", "warn": "perilous", "admit": "unclear"}
"""What is said where nothing is told, by intent."""
CLOSINGS = {"ask": "farewell", "beg": "courage", "threat": "begone"}
NOTHING = "none"
"""What is recalled where nothing at hand is about what was asked."""
LOOSE_ORDERS = ("free", "hired")
"""Orders whose members took no oath of silence."""
RESERVE = {"foe": 2, "new": 1, "pal": 0, "kin": 0}
"""How far down TONES a calm speaker starts."""


class SceneState(Record):
    """A scenario's state on disk."""

    persona: str
    relation: str
    mood: str
    facts: tuple[str, ...]
    """Ids of the facts at hand, each about another entity."""
    hushed: str
    """The entity that the persona must keep quiet about."""
    manner: str
    """How the player asks."""
    asked: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One question to one persona, with the facts that it has at hand."""

    order: str
    relation: str
    mood: str
    manner: str
    asked: str
    hushed: str
    facts: Mapping[str, Fact]
    """The facts at hand by id, each about another entity."""

    @property
    def recalled(self) -> str:
        """Id of the fact at hand about what was asked, or NOTHING."""
        return next((fact.id for fact in self.facts.values() if fact.entity == self.asked), NOTHING)

    @property
    def boundary(self) -> str:
        """What may be done with it."""
        if self.recalled == NOTHING:
            return "unknown"
        return "secret" if self.asked == self.hushed else "open"

    def plain_intent(self, boundary: str) -> str:
        """The intent by the rules that a single step shows, under this boundary."""
        if boundary == "unknown":
            return "admit"
        if boundary == "open":
            return "barter" if self.relation == "foe" else "tell"
        return "hint" if self.relation == "kin" and self.order in LOOSE_ORDERS else "refuse"

    @property
    def threatened(self) -> bool:
        """Whether a secret is demanded by threat: the case that only the outcome judges."""
        return self.boundary == "secret" and self.manner == "threat"

    @property
    def intent(self) -> str:
        """The intent by all rules."""
        return "warn" if self.threatened else self.plain_intent(self.boundary)

    def sound_intent(self, intent: str) -> bool:
        """Whether a step's intent is sound to a judge that does not see how the player asked."""
        return intent == self.plain_intent(self.boundary) or (self.boundary == "secret" and intent == "warn")

    def tone(self, mood: str) -> str:
        """The tone to this player in `mood`."""
        return TONES[min(RESERVE[self.relation] + (mood == "angry"), 2)]

    def body(self, intent: str, fact: str) -> str:
        """What is said of the subject by this intent after recalling this fact."""
        if intent != "tell":
            return STOCK[intent]
        return self.facts[fact].value if fact in self.facts else STOCK["admit"]

    def states(self, body: str) -> bool:
        """Whether `body` states something of the world rather than a stock word."""
        return body not in STOCK.values()

    def knows(self, subject: str, body: str) -> bool:
        """Whether a fact at hand says this of this subject."""
        return any(fact.entity == subject and fact.value == body for fact in self.facts.values())

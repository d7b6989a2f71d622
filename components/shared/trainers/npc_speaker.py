"""The scripted expert of NPC dialogue: right by habit, and wrong in the ways that real teachers are.

Slips are systematic, so that a policy can be told to unlearn them: to bluff where nothing is known, to gossip, to give a
foe for nothing, to stonewall kin, to hide anger, to flatten the relation.
"""

import random
from collections.abc import Sequence

from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.npc_scene import ADDRESSES, BOUNDARIES, CLOSINGS, INTENTS, STOCK, TONES, Answer, Scene

MENDS = {
    "schema": ("recall", "boundary", "intent", "tone", "address", "body"),
    "precondition": ("recall", "intent"),
    "invention": ("recall", "boundary", "intent", "body"),
    "leak": ("boundary", "intent", "body"),
}
"""The decisions to take again after a gate failed."""
HEED = 0.8
"""Chance that a teacher mends a decision that the verifier's reasons name."""


def mended(feedback: Sequence[str], rng: random.Random) -> set[str]:
    """Those decisions named by a verdict's reasons, each `fault: what to do`, that are taken rightly this time."""
    faults = (reason.partition(":")[0] for reason in feedback)
    named = dict.fromkeys(decision for fault in faults for decision in MENDS.get(fault, (fault,)))
    return {decision for decision in named if rng.random() < HEED}


class Speaker:
    """Takes each decision rightly, by a slip, or at random; those in `mended` always rightly."""

    def __init__(self, rng: random.Random, habits: Habits, mended: set[str]):
        self.rng, self.habits, self.mended = rng, habits, mended

    def answer(self, scene: Scene) -> Answer:
        """The typed answer to a scene."""
        fact, boundary = self._limit(scene)
        intent = self._intent(scene, boundary)
        mood = "calm" if scene.mood == "angry" and self._slips("tone") else scene.mood
        body = scene.body(intent, fact)
        return {
            "fact": fact,
            "boundary": boundary,
            "intent": intent,
            "tone": self._settle("tone", scene.tone(mood), TONES),
            "address": self._settle("address", ADDRESSES[self._relation(scene)], tuple(ADDRESSES.values())),
            "subject": scene.asked,
            "body": self._settle("body", body, (scene.body("tell", fact), *STOCK.values())),
            "closing": self._settle("closing", self._closing(scene), tuple(CLOSINGS.values())),
        }

    def _limit(self, scene: Scene) -> tuple[str, str]:
        """What is recalled, and what may be done with it."""
        fact, boundary = scene.recalled, scene.boundary
        if boundary == "unknown" and self._slips("recall"):
            fact, boundary = self.rng.choice(sorted(scene.facts)), "open"
        elif boundary == "secret" and scene.relation != "foe" and self._slips("boundary"):
            boundary = "open"
        return fact, self._settle("boundary", boundary, BOUNDARIES)

    def _intent(self, scene: Scene, boundary: str) -> str:
        intent = scene.plain_intent(boundary)
        if boundary == "secret" and scene.threatened and self._sees():
            intent = "warn"
        elif intent == "barter" and self._slips("intent"):
            intent = "tell"
        elif intent == "hint" and self._slips("intent"):
            intent = "refuse"
        return self._settle("intent", intent, INTENTS)

    def _relation(self, scene: Scene) -> str:
        """The relation as the address shows it."""
        if scene.relation in ("foe", "kin") and self._slips("address"):
            return "new" if scene.relation == "foe" else "pal"
        return scene.relation

    def _closing(self, scene: Scene) -> str:
        return CLOSINGS[scene.manner if self._sees() else "ask"]

    def _slips(self, decision: str) -> bool:
        return self.rng.random() > self.habits.visible and decision not in self.mended

    def _sees(self) -> bool:
        """Whether a rule that only the outcome shows is kept this time."""
        return self.rng.random() < self.habits.hidden

    def _settle(self, decision: str, choice: str, choices: Sequence[str]) -> str:
        if self.rng.random() < self.habits.noise and decision not in self.mended:
            return self.rng.choice(choices)
        return choice

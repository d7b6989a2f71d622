"""A scripted storyteller with the slips of real ones.

Left to its habits it tells what comes easily: it opens where the hero lives, hears only the mood in tone and price,
names what the state of the world is best known for though it was forbidden, lets the hero do alone what needed an ally,
forgets the road home, brings back who has left, and ends every tale in peace and a feast.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.story_plan import (
    COSTS,
    ECHOES,
    HALT,
    HANDS,
    MOODS,
    MOVES,
    PEACE,
    RETURN,
    TONES,
    Grammar,
    Plan,
    Tale,
    Telling,
)

T = TypeVar("T")


class StoryExpert:
    """Tells one tale. `mended` names the faults of an earlier attempt, which this one does not repeat."""

    def __init__(self, grammar: Grammar, tale: Tale, rng: random.Random, habits: Habits, mended: frozenset[str]):
        self.grammar = grammar
        self.tale = tale
        self.rng = rng
        self.habits = habits
        self.mended = mended
        self.plan: Plan = {}

    def tell(self) -> Plan:
        """The whole plan; each beat is told in the light of those before it, slips included."""
        self.plan["opening"] = self._opening()
        self.plan["obstacle"] = self._obstacle()
        self.plan["turn"] = self._turn()
        cost = self._cost()
        if cost is not None:
            self.plan["price"] = {"payer": self.tale.payer(cost), "cost": cost}
        self.plan["ending"] = self._ending(cost)
        return self.plan

    def _choose(self, right: T, slip: T, options: Sequence[T], names: set[str], keeps: float) -> T:
        """`right` with chance `keeps`, else `slip`; now and then any of `options`; surely `right` where mended."""
        if names & self.mended:
            return right
        if self.rng.random() < self.habits.noise:
            return self.rng.choice(options)
        return right if slip == right or self.rng.random() < keeps else slip

    def _visible(self, right: T, slip: T, options: Sequence[T], *names: str) -> T:
        return self._choose(right, slip, options, set(names), self.habits.visible)

    def _opening(self) -> dict[str, str]:
        tale = self.tale
        easy = tale.home if tale.homeward else tale.place
        return {
            "place": self._visible(tale.place, easy, (tale.place, tale.home), "opening"),
            "tone": self._visible(TONES[tale.weight], TONES[MOODS.index(tale.mood)], TONES, "tone"),
        }

    def _obstacle(self) -> dict[str, str]:
        effects = tuple(self.tale.effects.items())
        entity, value = self._visible(self.tale.obstacles[0], effects[0], effects, "obstacle", "forbidden")
        return {"entity": entity, "value": value}

    def _turn(self) -> dict[str, str]:
        tale = self.tale
        alone = tale.hero if tale.length == "short" else tale.ally
        return {
            "helper": self._visible(tale.ally, alone, tuple(self.grammar.personas), "turn", "forbidden"),
            "gain": self._visible(tale.item, tale.item, tuple(self.grammar.words["gain"]), "turn", "forbidden"),
            "move": self._visible(RETURN if tale.homeward else HALT, HALT, MOVES, "travel"),
        }

    def _cost(self) -> str | None:
        easy = self.tale.cost_at(MOODS.index(self.tale.mood))
        return self._visible(self.tale.cost, easy, (None, *COSTS), "price")

    def _ending(self, cost: str | None) -> dict[str, str]:
        tale, told, turn = self.tale, Telling(self.tale, self.plan), self.plan["turn"]
        place, goal = told.whereabouts, tale.home if tale.homeward else tale.place
        actor = turn["helper"] if told.spent == tale.hero else tale.hero
        means = HANDS if told.spent == turn["gain"] else turn["gain"]
        return {
            "place": self._visible(place, goal, (place, goal), "place", "ending"),
            "actor": self._visible(actor, tale.hero, (tale.hero, turn["helper"]), "actor", "ending"),
            "means": self._visible(means, turn["gain"], (HANDS, turn["gain"]), "item", "ending"),
            "deed": self._visible(tale.deed, tale.deed, tuple(self.grammar.words["deed"]), "ending"),
            "cause": self._hidden(tale.cause, PEACE, tuple(self.grammar.words["cause"])),
            "echo": self._hidden(ECHOES[cost], ECHOES[None], tuple(ECHOES.values())),
        }

    def _hidden(self, right: T, slip: T, options: Sequence[T]) -> T:
        return self._choose(right, slip, options, set(), self.habits.hidden)

"""Story generation: a tale planned in four or five beats that keeps its constraints and its continuity.

    osric gate quest rescue bridge lantern siege grim need maren shun granary long =
    -> opening bridge bleak ; obstacle gate sealed ; turn maren lantern return ; price osric falls ;
       ending gate maren lantern freed duty mourning

What a single beat shows is judged beat by beat. For whose sake the deed is done (by the quest's kind and the hero's
order) and whether the price pays off in the ending show only in the whole tale: the step judge and the process verifier
are blind to both.
"""

import random
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from components.shared.collaboration.rules_engine import RulesEngine
from components.shared.collaboration.text_criteria import TextCriteria
from components.shared.collaboration.world import World
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario, Step, Verdict
from components.shared.trainers.base_trainer import Action, Check, Habits, ModelTypeTrainer, Reward
from components.shared.trainers.story_expert import StoryExpert
from components.shared.trainers.story_plan import BEATS, MOODS, Grammar, Plan, Tale, Telling, render

LENGTHS = ("long", "long", "short")
"""Demands of length, as often as scenarios make them."""
STEP_MARKS = {
    "opening": {"opening": 0.1, "tone": 0.3},
    "obstacle": {"obstacle": 0.1},
    "turn": {"turn": 0.1, "travel": 0.3},
    "price": {"price": 0.2},
    "ending": {"ending": 0.2},
}
"""What a beat is worth at most where the named criterion fails."""
GATES = ("schema", "forbidden", "item", "actor", "place")
"""Hard conditions of a plan: its form, the forbidden element, and its continuity with itself."""
VERIFY_WEIGHTS = {
    "opening": 0.1,
    "tone": 0.15,
    "obstacle": 0.15,
    "turn": 0.15,
    "travel": 0.15,
    "price": 0.15,
    "ending": 0.15,
}
"""Shares of a trajectory's score: two faults pass, unless a gate is among them, three do not."""
REWARD_WEIGHTS = {
    "opening": 0.08,
    "tone": 0.1,
    "obstacle": 0.12,
    "turn": 0.1,
    "travel": 0.1,
    "price": 0.12,
    "ending": 0.14,
    "cause": 0.12,
    "echo": 0.12,
}
"""Shares of the graded part of the outcome reward."""
REASONS = {
    "schema": "the beats do not follow the grammar, or their text and their fields differ",
    "forbidden": "the forbidden element is named: choose another",
    "item": "the ending uses what was never gained or is gone: gain it before, or go empty-handed",
    "actor": "somebody acts who has left or never came: let one act who is there",
    "place": "the place has changed without travel: return in the turn, or end where the tale is",
    "opening": "the tale does not open at the quest's place",
    "tone": "the tone does not follow the mood and the quest's gravity",
    "obstacle": "the obstacle does not follow from the state of the world",
    "turn": "the turn lacks the required ally or the quest's item",
    "travel": "the turn does not move as a quest of this kind does",
    "price": "the price is not the one that is due",
    "ending": "the ending does not follow from the beats before it and the quest's kind",
}
"""What to mend, by the gate or criterion that failed."""


class StoryGenerationTrainer(ModelTypeTrainer):
    """Plans of tales. Groups are hero/quest: held-out tales pair heroes and quests that never met in training."""

    name = "story_generation"
    step_titles = tuple(BEATS)
    text_criteria = TextCriteria(distinct=0.9, repeated_n=4, repeated=0.0)
    teacher = Habits(visible=0.45, hidden=0.3, noise=0.02)
    folk = Habits(visible=0.3, hidden=0.1, noise=0.1)

    def __init__(self, world: World):
        super().__init__(world)
        self.grammar = Grammar(world)
        self.rules = RulesEngine(world.rules_for(self.name))
        if not self.rules.rules:
            raise GateError(f"world {world.name} has no rules for {self.name}: add rules/{self.name}.yaml to check by")
        self._cast = tuple(self.grammar.personas)
        self._states = tuple(self.grammar.states)
        # A hero who lives where the quest is, or whose home is its item, would make the road home meaningless.
        self._pairs = tuple(
            (hero.id, quest.id)
            for hero in world.personas
            for quest in world.quests
            if hero.home not in (quest.place, quest.item)
        )

    # Scenarios

    def sample_state(self, rng: random.Random) -> tuple[str, dict[str, JsonValue], float]:
        hero, quest = rng.choice(self._pairs)
        ally = rng.choice([persona for persona in self._cast if persona != hero])
        world_state = rng.choice(self._states)
        state: dict[str, JsonValue] = {
            "hero": hero,
            "quest": quest,
            "world_state": world_state,
            "mood": rng.choice(MOODS),
            "required": ally,
            "forbidden": self._forbid(rng, hero, quest, world_state, ally),
            "length": rng.choice(LENGTHS),
        }
        return f"{hero}/{quest}", state, self._difficulty(self.grammar.tale(state))

    def _forbid(self, rng: random.Random, hero: str, quest_id: str, world_state: str, ally: str) -> str:
        """Something to leave out: half the time what the state of the world is best known for."""
        quest = self.grammar.quests[quest_id]
        spoken_of = (self.grammar.personas[hero].home, quest.place, quest.item)
        effects = [entity for entity in self.grammar.states[world_state] if entity not in spoken_of]
        point = rng.random()
        if effects and point < 0.75:
            return effects[0] if point < 0.5 else rng.choice(effects)
        return rng.choice([persona for persona in self._cast if persona not in (hero, ally)])

    @staticmethod
    def _difficulty(tale: Tale) -> float:
        """The share of the complications that this tale has."""
        complications = (
            tale.grave and tale.mood != MOODS[-1],
            tale.forbidden == next(iter(tale.effects)),
            tale.homeward,
            tale.cost is not None,
            tale.weight == 2,
        )
        return sum(complications) / len(complications)

    def prompt(self, state: dict[str, JsonValue]) -> str:
        tale = self.grammar.tale(state)
        return (
            f"{tale.hero} {tale.home} quest {tale.kind} {tale.place} {tale.item} {state['world_state']} {tale.mood} "
            f"need {tale.ally} shun {tale.forbidden} {tale.length} ="
        )

    # Text

    def vocabulary(self) -> Sequence[str]:
        return self.grammar.vocabulary

    def parse(self, scenario: Scenario, text: str) -> Action | None:
        plan = self.grammar.parse(text)
        return None if plan is None else _action(plan)

    def steps_of(self, scenario: Scenario, text: str) -> tuple[Step, ...] | None:
        plan = self.grammar.parse(text)
        return None if plan is None else _steps(plan, dict.fromkeys(plan, 0.0))

    # Expert

    def demonstrate(
        self, scenario: Scenario, rng: random.Random, habits: Habits, feedback: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        tale = self.grammar.tale(scenario.state)
        mended = frozenset(reason.partition(":")[0] for reason in feedback)
        plan = StoryExpert(self.grammar, tale, rng, habits, mended).tell()
        return _steps(plan, self._marks(Telling(tale, plan)))

    # Judges

    def judge(self, scenario: Scenario, steps: Sequence[Step]) -> list[float]:
        plan = self._plan(steps)
        if plan is None:
            return [0.0] * len(steps)
        return list(self._marks(Telling(self.grammar.tale(scenario.state), plan)).values())

    @staticmethod
    def _marks(told: Telling) -> dict[str, float]:
        """Each beat's worth by itself. An ending that comes before the price that is due comes too early."""
        sound = told.beats()
        marks = {
            title: min((mark for term, mark in STEP_MARKS[title].items() if not sound[term]), default=1.0)
            for title in told.plan
        }
        if "price" not in told.plan and not sound["price"]:
            marks["ending"] = STEP_MARKS["ending"]["ending"]
        return marks

    def _plan(self, steps: Sequence[Step]) -> Plan | None:
        """The plan that the steps tell, or none where they leave the grammar or text and fields disagree."""
        plan = self.grammar.parse(self.completion(steps))
        told = [(step.title, step.action) for step in steps]
        return plan if plan is not None and list(plan.items()) == told else None

    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        gates, criteria = dict.fromkeys(GATES, False), dict.fromkeys(VERIFY_WEIGHTS, False)
        faults = ["schema"]
        plan = self._plan(steps)
        if plan is not None:
            told = Telling(self.grammar.tale(scenario.state), plan)
            gates, criteria = {"schema": True, **told.gates()}, told.beats()
            faults = [name for name, held in {**gates, **criteria}.items() if not held]
        score = _weighted(criteria, VERIFY_WEIGHTS) if all(gates.values()) else 0.0
        return Verdict(
            verifier=f"{self.name}/process@{self.version}",
            score=score,
            passed=score >= self.pass_score,
            gates=gates,
            criteria={name: float(held) for name, held in criteria.items()},
            reasons=tuple(f"{fault}: {REASONS[fault]}" for fault in faults),
        )

    def reward(self, scenario: Scenario, text: str) -> Reward:
        plan = self.grammar.parse(text)
        if plan is None:
            return Reward(total=0.0, components=dict.fromkeys(REWARD_WEIGHTS, 0.0), gate="schema")
        told = Telling(self.grammar.tale(scenario.state), plan)
        terms = told.beats() | told.outcome()
        gate = next((name for name, held in told.gates().items() if not held), None)
        total = 0.0 if gate else 0.6 * _weighted(terms, REWARD_WEIGHTS) + 0.4 * all(terms.values())
        return Reward(total=total, components={name: float(held) for name, held in terms.items()}, gate=gate)

    def check(self, scenario: Scenario, text: str) -> Check:
        plan = self.grammar.parse(text)
        if plan is None:
            return Check(score=0.0, correct=False, faults=("schema",))
        found = self.rules.evaluate({"scenario": self._looked_up(scenario.state), "facts": [], "action": _action(plan)})
        faults = tuple(broken.rule for broken in found.broken)
        return Check(score=found.score / 2 if faults else 1.0, correct=not faults, faults=faults)

    def _looked_up(self, state: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The state with the world's entries behind its names: all that a rule may read of a scenario."""
        asked = self.grammar.read(state)
        hero, quest = self.grammar.personas[asked["hero"]], self.grammar.quests[asked["quest"]]
        return {
            "hero": hero.id,
            **hero.model_dump(include={"home", "order"}),
            **quest.model_dump(include={"kind", "place", "item"}),
            "effects": {**self.grammar.states[asked["world_state"]]},
            **{name: asked[name] for name in ("mood", "required", "forbidden", "length")},
        }


def _steps(plan: Plan, rewards: Mapping[str, float]) -> tuple[Step, ...]:
    return tuple(
        Step(index=index, title=title, text=render(title, fields), action={**fields}, reward=rewards[title])
        for index, (title, fields) in enumerate(plan.items(), start=1)
    )


def _action(plan: Plan) -> Action:
    return {title: {**fields} for title, fields in plan.items()}


def _weighted(terms: dict[str, bool], weights: dict[str, float]) -> float:
    """The weighted share of the terms that hold, in [0, 1], free of the sum's last bits."""
    return round(sum(weights[name] for name, held in terms.items() if held), 6)

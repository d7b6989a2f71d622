"""NPC dialogue: a townsperson recalls, decides what may be told, and says it in its own tone.

A prompt is 13 words, an answer 18:

    nell pal angry know F072 F012 F023 hush bridge player beg bridge =
    recall F012 ; rule secret ; intent refuse ; tone plain ; say friend bridge is private courage

The facts at hand are what comes to the persona's mind in this scene, out of all that it knows. Two rules are hidden
from `judge` and `verify`: a threat over a secret is answered with a warning, and the closing word follows the player's
manner. They are what RLVR has to learn after SRL.

`check` calls an answer correct exactly where `reward` is 1. Below that they differ on purpose: `check` gives nothing to
an answer that recalls a fact which is not at hand, `reward` still counts the rest, so that early rollouts have a slope.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from components.shared.collaboration.rules_engine import RulesEngine
from components.shared.collaboration.text_criteria import TextCriteria
from components.shared.collaboration.world import Fact, World
from components.shared.contracts.records import Scenario, Step, Verdict
from components.shared.trainers.base_trainer import Action, Check, Habits, ModelTypeTrainer, Reward
from components.shared.trainers.npc_scene import (
    ADDRESSES,
    BOUNDARIES,
    CLOSINGS,
    INTENTS,
    MANNERS,
    MOODS,
    NOTHING,
    RELATIONS,
    STOCK,
    TONES,
    Answer,
    Scene,
    SceneState,
)
from components.shared.trainers.npc_speaker import Speaker, mended

AT_HAND = 3
FIELDS = {
    "recall": ("fact",),
    "rule": ("boundary",),
    "intent": ("intent",),
    "tone": ("tone",),
    "say": ("address", "subject", "body", "closing"),
}
"""The action's fields by step title."""
PATTERN = (
    "recall {fact} ; rule {boundary} ; intent {intent} ; tone {tone} ; say {address} {subject} is {body} {closing}"
)
PROMPT = re.compile(
    r"(?P<persona>\S+) (?P<relation>\S+) (?P<mood>\S+) know (?P<facts>\S+(?: \S+)*) "
    r"hush (?P<hushed>\S+) player (?P<manner>\S+) (?P<asked>\S+) ="
)
FAMILIAR = 0.85
"""Share of questions about entities that the persona knows of at all."""
CASES = {"open": 0.39, "secret": 0.39, "unknown": 0.22}
"""How questions about familiar entities fall; with FAMILIAR, each boundary makes up about a third of all."""
PROCESS_WEIGHTS = {"recall": 0.1, "boundary": 0.1, "intent": 0.35, "tone": 0.2, "address": 0.15, "body": 0.1}
"""What sends a demonstration back: a wrong intent by itself, or tone and address together. Wrong recall and boundary
mostly end at a gate or in a wrong intent."""
OUTCOME_WEIGHTS = {"recall": 0.15, "boundary": 0.15, "intent": 0.2, "tone": 0.15, "reply": 0.2, "closing": 0.15}
GRADED_SHARE = 0.6
"""What the weighted criteria make up of an outcome reward; the rest is paid only where all of them are met."""
REASONS = {
    "schema": "the steps must be recall, rule, intent, tone and say, in known words that their fields repeat",
    "precondition": "only a fact that is at hand can be recalled",
    "invention": "the answer states something of its subject that the speaker does not know",
    "leak": "the answer gives away what the speaker must keep quiet",
    "recall": "recall the fact at hand about what was asked, or none where there is none",
    "boundary": "what is not known is unknown, what is known and hushed is secret, the rest is open",
    "intent": "the intent does not follow from the boundary, the relation and the speaker's order",
    "tone": "the tone follows the relation, one step colder in anger",
    "address": "the address follows the relation, and the answer speaks of what was asked",
    "body": "what is said does not carry out the intent",
}
"""What to tell a teacher about each fault."""


class NPCDialogueTrainer(ModelTypeTrainer):
    """The model type `npc_dialogue`."""

    name = "npc_dialogue"
    step_titles = tuple(FIELDS)
    text_criteria = TextCriteria(distinct=0.9, repeated_n=4, repeated=0.0)  # the pattern itself repeats nothing
    teacher = Habits(visible=0.45, hidden=0.3, noise=0.02)
    folk = Habits(visible=0.3, hidden=0.1, noise=0.1)

    def __init__(self, world: World):
        super().__init__(world)
        self._facts = {fact.id: fact for fact in world.current_facts()}
        self._orders = {persona.id: persona.order for persona in world.personas}
        self._personas = sorted(self._orders)
        self._known = {persona: self._by_entity(persona) for persona in self._personas}
        self._rules = RulesEngine(world.rules_for(self.name))
        self._choices = {
            "fact": {*self._facts, NOTHING},
            "boundary": set(BOUNDARIES),
            "intent": set(INTENTS),
            "tone": set(TONES),
            "address": set(ADDRESSES.values()),
            "subject": set(world.lists["entities"]),
            "body": {*world.values, *STOCK.values()},
            "closing": set(CLOSINGS.values()),
        }

    def _by_entity(self, persona: str) -> dict[str, list[str]]:
        """Ids of the facts that a persona knows, by entity."""
        known: dict[str, list[str]] = {}
        for fact in self._facts.values():
            if persona in fact.known_by:
                known.setdefault(fact.entity, []).append(fact.id)
        return known

    # Scenarios

    def sample_state(self, rng: random.Random) -> tuple[str, dict[str, JsonValue], float]:
        persona = rng.choice(self._personas)
        known = self._known[persona]
        entities = list(known)
        if rng.random() < FAMILIAR:
            asked = rng.choice(entities)
            case = rng.choices(tuple(CASES), tuple(CASES.values()))[0]
        else:
            asked = rng.choice([e for e in self.world.lists["entities"] if e not in known])
            case = "unknown"
        topics = rng.sample([e for e in entities if e != asked], AT_HAND)
        hushed = rng.choice(topics[1:])
        if case != "unknown":
            topics[0] = asked
            hushed = asked if case == "secret" else hushed
        rng.shuffle(topics)
        state: dict[str, JsonValue] = {
            "persona": persona,
            "relation": rng.choice(RELATIONS),
            "mood": rng.choice(MOODS),
            "facts": [rng.choice(known[topic]) for topic in topics],
            "hushed": hushed,
            "manner": rng.choice(MANNERS),
            "asked": asked,
        }
        return f"{persona}/{asked}", state, self._difficulty(state)

    def _difficulty(self, state: Mapping[str, JsonValue]) -> float:
        """The share of the five things that make a scene harder than a calm friend's question about an open matter."""
        scene = self._scene(state)
        hard = (
            scene.boundary != "open",
            scene.threatened,
            scene.mood == "angry",
            scene.relation in ("foe", "kin"),
            scene.manner != "ask",
        )
        return sum(hard) / len(hard)

    def _scene(self, state: Mapping[str, JsonValue]) -> Scene:
        read = SceneState.model_validate(state)
        return Scene(
            order=self._orders[read.persona],
            relation=read.relation,
            mood=read.mood,
            manner=read.manner,
            asked=read.asked,
            hushed=read.hushed,
            facts={fact: self._facts[fact] for fact in read.facts},
        )

    # Text

    def prompt(self, state: dict[str, JsonValue]) -> str:
        read = SceneState.model_validate(state)
        return (
            f"{read.persona} {read.relation} {read.mood} know {' '.join(read.facts)} "
            f"hush {read.hushed} player {read.manner} {read.asked} ="
        )

    def scenario_from(self, prompt: str, answer: str | None = None) -> Scenario | None:
        read = PROMPT.fullmatch(" ".join(prompt.split()))
        if read is None:
            return None
        state: dict[str, JsonValue] = {**read.groupdict(), "facts": list(read["facts"].split())}
        try:
            difficulty = self._difficulty(state)
        except (LookupError, ValueError):
            return None  # of another world, or with a word that means nothing here
        group = f"{read['persona']}/{read['asked']}"
        return Scenario(
            id=self.scenario_id(state),
            model_type=self.name,
            group=group,
            split=self.split_of(group),
            prompt=self.prompt(state),
            state=state,
            difficulty=difficulty,
        )

    def vocabulary(self) -> Sequence[str]:
        keywords = [";", "=", "know", "hush", "player", "is", "say", "recall", "rule", "tone", "lore", NOTHING]
        world = (*self._facts, *self._personas, *self.world.lists["entities"], *self.world.lists["attributes"])
        scene = (*RELATIONS, *MOODS, *MANNERS, *BOUNDARIES, "intent", *INTENTS, *TONES)
        said = (*ADDRESSES.values(), *self.world.values, *STOCK.values(), *CLOSINGS.values())
        return list(dict.fromkeys((*keywords, *world, *scene, *said)))

    def parse(self, scenario: Scenario, text: str) -> Action | None:
        answer = self._read(text)
        return None if answer is None else {**answer}

    def _read(self, text: str) -> Answer | None:
        words = text.split()
        if len(words) != len(PATTERN.split()):
            return None
        answer: Answer = {}
        for word, pattern in zip(words, PATTERN.split(), strict=True):
            if pattern[0] != "{":
                if word != pattern:
                    return None
            elif word in self._choices[pattern[1:-1]]:
                answer[pattern[1:-1]] = word
            else:
                return None
        return answer

    def steps_of(self, scenario: Scenario, text: str) -> tuple[Step, ...] | None:
        answer = self._read(text)
        return None if answer is None else self.steps({**answer})

    def step_action(self, action: Action, step: Step) -> Action:
        return {field: action[field] for field in FIELDS.get(step.title, ())}

    def corpus(self, rng: random.Random, count: int) -> Iterator[str]:
        """Folk dialogues; each third text is a reading of lore, which teaches what the fact ids stand for."""
        dialogues = super().corpus(rng, count - count // 3)
        facts = list(self._facts.values())
        for number in range(1, count + 1):
            yield self._reading(rng, facts) if number % 3 == 0 else next(dialogues)

    @staticmethod
    def _reading(rng: random.Random, facts: Sequence[Fact]) -> str:
        """Facts at hand by id, then what each says, in another order: an exercise in looking up."""
        at_hand = rng.sample(facts, AT_HAND)
        ids = " ".join(fact.id for fact in at_hand)
        rng.shuffle(at_hand)
        told = " ; ".join(f"lore {fact.entity} {fact.id} {fact.attribute} {fact.value}" for fact in at_hand)
        return f"know {ids} {told}"

    # Expert

    def demonstrate(
        self, scenario: Scenario, rng: random.Random, habits: Habits, feedback: Sequence[str] = ()
    ) -> tuple[Step, ...]:
        speaker = Speaker(rng, habits, mended(feedback, rng))
        steps = self.steps(speaker.answer(self._scene(scenario.state)))
        rewards = self.judge(scenario, steps)
        return tuple(step.model_copy(update={"reward": r}) for step, r in zip(steps, rewards, strict=True))

    def steps(self, answer: Mapping[str, JsonValue]) -> tuple[Step, ...]:
        """The steps that say an answer, not judged yet."""
        texts = PATTERN.format(**answer).split(" ; ")
        return tuple(
            Step(
                index=index,
                title=title,
                text=text if title == self.step_titles[-1] else f"{text} ;",
                action={field: answer[field] for field in FIELDS[title]},
                reward=0.0,
            )
            for index, (title, text) in enumerate(zip(self.step_titles, texts, strict=True), 1)
        )

    # Judges

    def judge(self, scenario: Scenario, steps: Sequence[Step]) -> list[float]:
        scene = self._scene(scenario.state)
        said = {field: str(value) for step in steps for field, value in step.action.items()}
        sound_intent = scene.sound_intent(said.get("intent", ""))
        sound = {
            "recall": (said.get("fact") == scene.recalled, 0.1),
            "rule": (said.get("boundary") == scene.boundary, 0.1),
            "intent": (sound_intent, 0.2),
            "tone": (said.get("tone") == scene.tone(scene.mood), 0.3),
            "say": (
                sound_intent
                and said.get("address") == ADDRESSES[scene.relation]
                and said.get("subject") == scene.asked
                and said.get("body") == scene.body(said["intent"], said.get("fact", NOTHING)),
                0.2,
            ),
        }
        rewards = {title: 1.0 if holds else otherwise for title, (holds, otherwise) in sound.items()}
        return [rewards.get(step.title, 0.0) for step in steps]

    def verify(self, scenario: Scenario, steps: Sequence[Step]) -> Verdict:
        scene = self._scene(scenario.state)
        answer = self._agreed(steps)
        gates = {"schema": answer is not None, **self._gates(scene, answer)}
        criteria = self._process_criteria(scene, answer)
        graded = sum(weight * criteria[name] for name, weight in PROCESS_WEIGHTS.items())
        score = round(graded, 6) if all(gates.values()) else 0.0
        faults = [name for name, holds in gates.items() if not holds]
        faults += [name for name, kept in criteria.items() if kept < 1 and answer is not None]
        return Verdict(
            verifier=f"{self.name}/process@{self.version}",
            score=score,
            passed=score >= self.pass_score,
            gates=gates,
            criteria=criteria,
            reasons=tuple(f"{fault}: {REASONS[fault]}" for fault in faults),
        )

    def _agreed(self, steps: Sequence[Step]) -> Answer | None:
        """The answer, where the steps are the right ones in order and their fields say what their text says."""
        answer = self._read(self.completion(steps))
        if answer is None or tuple(step.title for step in steps) != self.step_titles:
            return None
        agree = all(step.action == {field: answer[field] for field in FIELDS[step.title]} for step in steps)
        return answer if agree else None

    @staticmethod
    def _gates(scene: Scene, answer: Answer | None) -> dict[str, bool]:
        """What must never happen: recalling what is not at hand, stating what is not known, saying what is hushed."""
        if answer is None:
            return {"precondition": False, "invention": False, "leak": False}
        states = scene.states(answer["body"])
        return {
            "precondition": answer["fact"] in (*scene.facts, NOTHING),
            "invention": not states or scene.knows(answer["subject"], answer["body"]),
            "leak": not states or answer["subject"] != scene.hushed,
        }

    @staticmethod
    def _process_criteria(scene: Scene, answer: Answer | None) -> dict[str, float]:
        """What single steps show; a warning over a secret is taken as sound however the player asked."""
        if answer is None:
            return dict.fromkeys(PROCESS_WEIGHTS, 0.0)
        kept = {
            "recall": answer["fact"] == scene.recalled,
            "boundary": answer["boundary"] == scene.boundary,
            "intent": scene.sound_intent(answer["intent"]),
            "tone": answer["tone"] == scene.tone(scene.mood),
            "address": answer["address"] == ADDRESSES[scene.relation] and answer["subject"] == scene.asked,
            "body": answer["body"] == scene.body(answer["intent"], answer["fact"]),
        }
        return {name: float(holds) for name, holds in kept.items()}

    def reward(self, scenario: Scenario, text: str) -> Reward:
        answer = self._read(text)
        if answer is None:
            return Reward(total=0.0, components=dict.fromkeys(OUTCOME_WEIGHTS, 0.0), gate="schema")
        scene = self._scene(scenario.state)
        gates = self._gates(scene, answer)
        gate = next((name for name in ("invention", "leak") if not gates[name]), None)
        criteria = self._outcome_criteria(scene, answer)
        graded = sum(weight * criteria[name] for name, weight in OUTCOME_WEIGHTS.items())
        total = 1.0 if all(criteria.values()) else GRADED_SHARE * graded
        return Reward(total=0.0 if gate else total, components=criteria, gate=gate)

    @staticmethod
    def _outcome_criteria(scene: Scene, answer: Answer) -> dict[str, float]:
        kept = {
            "recall": answer["fact"] == scene.recalled,
            "boundary": answer["boundary"] == scene.boundary,
            "intent": answer["intent"] == scene.intent,
            "tone": answer["tone"] == scene.tone(scene.mood),
            "reply": answer["address"] == ADDRESSES[scene.relation]
            and answer["subject"] == scene.asked
            and answer["body"] == scene.body(scene.intent, scene.recalled),
            "closing": answer["closing"] == CLOSINGS[scene.manner],
        }
        return {name: float(holds) for name, holds in kept.items()}

    def check(self, scenario: Scenario, text: str) -> Check:
        answer = self._read(text)
        if answer is None:
            return Check(score=0.0, correct=False, faults=("schema",))
        scene = self._scene(scenario.state)
        at_hand: list[JsonValue] = [
            {"id": fact.id, "entity": fact.entity, "value": fact.value} for fact in scene.facts.values()
        ]
        state = {**scenario.state, "order": scene.order}
        findings = self._rules.evaluate({"scenario": state, "facts": at_hand, "action": {**answer}})
        faults = tuple(broken.rule for broken in findings.broken)
        return Check(score=findings.score / 2 if faults else 1.0, correct=not faults, faults=faults)

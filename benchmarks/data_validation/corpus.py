"""Natural-language trajectories as an endpoint's teacher writes them, with a known share of planted faults.

Sentences come from a small grammar over a few hundred words, so that two texts share wording by chance but hardly ever a
run of thirteen words; a sixth of them hold years and quantities, which is what makes looking for personal data cost.
"""

import functools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.contracts.records import Scenario, Split, Step, Trajectory, Verdict
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import origin

WORLD = "wrackmere"
NATURAL = {"formal": [], "min_train": 1, "min_test": 1, "max_quarantined": 1.0, "max_tokens": 2048}
"""Configuration under which the model type's text is judged as natural language."""


def listed(text: str) -> list[str]:
    return text.split(", ")


ADJECTIVES = listed(
    "quiet, bitter, narrow, crooked, patient, hollow, weathered, golden, sullen, distant, broken, gentle, "
    "stubborn, ancient, crowded, faded, generous, hungry, idle, jealous, kindly, lonely, muddy, nervous, orderly, "
    "painted, restless, silver, tired, unlit, wary"
)
NOUNS = listed(
    "ferryman, lantern, orchard, ledger, bridge, tollhouse, miller, sexton, candle, harbour, weaver, granary, "
    "barrow, caravan, heron, armoury, banner, chapel, drover, forge, gaol, hourglass, inn, keystone, loom, mint, "
    "oath, pilgrim, quay, reed, smith, tower, vault, widow, yeoman, anchor, brewer, cartwright, dyke, easel, "
    "flute, glove, hammer, island, jug, kettle, ladder, mason, needle, oar, plough"
)
VERBS = listed(
    "watched, followed, mended, carried, remembered, refused, counted, buried, measured, borrowed, praised, "
    "guarded, traded, hid, painted, questioned, repaired, searched, taught, unlocked, visited, warned, answered, "
    "blessed, called, doubted, escorted"
)
PLACES = listed(
    "behind the old mill, under the north gate, beside the salt pans, along the marsh path, inside the ruined "
    "chapel, above the market square, near the flooded well, past the wreckers' beach, across the stone causeway, "
    "below the watch tower"
)
TIMES = listed(
    "before the spring tide, after the harvest fair, during the long frost, on the eve of the regatta, while the "
    "bells were ringing, when the fog had lifted, since the riots ended, until the lamps burned out"
)
PATTERNS = (
    "The {a} {n} {v} the {b} {m} {p} {t}.",
    "Nobody knew why the {n} {v} a {a} {m} {p}, but it happened {t}.",
    "If you ask the {n}, the {a} {m} was never {p} {t}.",
    "I have heard that the {b} {n} {v} every {a} {m} {t}.",
    "Tell me first what the {n} {v} {p}, and then I shall speak of the {a} {m}.",
    "{t}, so the story goes, a {a} {n} {v} the {m} and kept the {b} one {p}.",
    "There is little to say of the {m}: the {a} {n} {v} it {t} and left {p}.",
    "My {a} friend, the {n} has {v} more than one {b} {m} {p}.",
)
QUANTITIES = (
    "In the year {y} the {n} {v} {q} {a} barrels {p}.",
    "They paid {q} marks for the {m} and {k} more for the {a} {n} {t}.",
)
GERMAN = (
    "Der alte Müller hat die Laterne gestern Abend hinter der Brücke vergraben, weil ihm niemand im Dorf mehr glauben "
    "wollte. Wenn du den Fährmann fragst, wird er dir dasselbe sagen, aber nur gegen ein gutes Glas Wein und ein Lied."
)


def sentence(rng: random.Random) -> str:
    """One sentence of the grammar."""
    pattern = rng.choice(QUANTITIES) if rng.random() < 0.02 else rng.choice(PATTERNS)
    text = pattern.format(
        a=rng.choice(ADJECTIVES),
        b=rng.choice(ADJECTIVES),
        n=rng.choice(NOUNS),
        m=rng.choice(NOUNS),
        v=rng.choice(VERBS),
        p=rng.choice(PLACES),
        t=rng.choice(TIMES),
        y=rng.randint(1100, 1499),
        q=rng.randint(2, 99),
        k=rng.randint(2, 99),
    )
    return text[0].upper() + text[1:]


def passage(rng: random.Random, sentences: int) -> str:
    return " ".join(sentence(rng) for _ in range(sentences))


@dataclass(frozen=True)
class Corpus:
    """Scenarios and trajectories of one seed."""

    trainer: ModelTypeTrainer
    seed: int = 0

    @classmethod
    @functools.cache
    def of(cls, model_type: str) -> "Corpus":
        return cls(create_trainer(model_type, WORLD))

    def scenario(self, number: int) -> Scenario:
        rng = random.Random(f"{self.seed}/scenario/{number}")
        state = {"number": number, "topic": rng.choice(NOUNS), "mood": rng.choice(ADJECTIVES)}
        group = f"{rng.choice(NOUNS)}/{rng.choice(NOUNS)}"
        return Scenario(
            id=self.trainer.scenario_id(state),
            model_type=self.trainer.name,
            group=group,
            split=self.trainer.split_of(group),
            prompt=f"You are the {group.partition('/')[0]} of Wrackmere and answer in your own voice. "
            f"{passage(rng, 4)} The player asks about the {state['topic']}.",
            state=state,
            difficulty=rng.randint(0, 10) / 10,
        )

    def trajectory(self, number: int, scenario: Scenario) -> Trajectory:
        """A sound answer to a scenario."""
        rng = random.Random(f"{self.seed}/trajectory/{number}")
        texts = [passage(rng, 3) for _ in self.trainer.step_titles]
        return self.answered(scenario, texts, rng.randint(70, 100) / 100)

    def answered(self, scenario: Scenario, texts: list[str], score: float = 0.9) -> Trajectory:
        steps = [
            Step(index=i, title=title, text=text, action={"words": len(text.split())}, reward=score)
            for i, (title, text) in enumerate(zip(self.trainer.step_titles, texts, strict=True), 1)
        ]
        verdict = Verdict(
            verifier="judge@1", score=score, passed=True, gates={"schema": True}, criteria={"voice": score}
        )
        trajectory = self.trainer.trajectory(scenario, steps, teacher="endpoint", context=("mill",), attempt=1)
        return trajectory.model_copy(update={"verdict": verdict})


Plant = Callable[["Corpus", random.Random, Trajectory, list[Trajectory]], Trajectory | str]
"""A fault: of a sound trajectory and a few other ones (the first is of a held-out scenario), another or a raw line."""


def _said(texts: Callable[[random.Random, list[str]], list[str]]) -> Plant:
    def plant(corpus: Corpus, rng: random.Random, sound: Trajectory, others: list[Trajectory]) -> Trajectory:
        return corpus.answered(sound.scenario, texts(rng, [step.text for step in sound.steps]))

    return plant


def _with(*values: str) -> Plant:
    return _said(lambda rng, texts: [*texts[:-1], f"{texts[-1]} Write to {rng.choice(values)} about it."])


def _alike(corpus: Corpus, rng: random.Random, sound: Trajectory, others: list[Trajectory]) -> Trajectory:
    """The words of another answer, three of a hundred changed."""
    texts = []
    for step in others[1].steps:
        words = step.text.split()
        words[rng.randrange(len(words))] = rng.choice(NOUNS)
        texts.append(" ".join(words))
    return corpus.answered(sound.scenario, texts, 0.7)


def _held_out(corpus: Corpus, rng: random.Random, sound: Trajectory, others: list[Trajectory]) -> Trajectory:
    texts = [step.text for step in sound.steps]
    return corpus.answered(sound.scenario, [others[0].scenario.prompt, *texts[1:]])


def _from_prompt(corpus: Corpus, rng: random.Random, sound: Trajectory, others: list[Trajectory]) -> Trajectory:
    texts = [step.text for step in sound.steps]
    return corpus.answered(sound.scenario, [*texts[:-1], " ".join(sound.scenario.prompt.split()[12:40])])


def _edited(change: Callable[[dict[str, Any]], Any]) -> Plant:
    def plant(corpus: Corpus, rng: random.Random, sound: Trajectory, others: list[Trajectory]) -> str:
        record = sound.model_dump(mode="json")
        change(record)
        return json.dumps(record)

    return plant


PLANTS: dict[str, Plant] = {
    "language": _said(lambda rng, texts: [GERMAN] * len(texts)),
    "personal_data": _with(
        "anna.keller@example.com", "+49 30 901820", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "212-555-0187"
    ),
    "secret": _with("AKIAIOSFODNN7EXAMPLE", "sk-proj-abcdefghij0123456789", "ghp_" + "a1B2" * 9),
    "near_duplicate": _alike,
    "contamination": _held_out,
    "answer_in_prompt": _from_prompt,
    "hidden_characters": _with("the \u202esexton", "the wi\u200bdow", "\U000e0041\U000e0042"),
    "tokens": _said(lambda rng, texts: [*texts[:-1], passage(rng, 120)]),
    "schema": _edited(lambda record: record.pop("teacher")),
    "range": _edited(lambda record: record["steps"][0].update(reward=1.5)),
    "id": _edited(lambda record: record.update(id="0" * 16)),
    "unverified": _edited(lambda record: record.update(verdict=None)),
}


def trajectory_lines(corpus: Corpus, scenarios: int, count: int, planted: float) -> Iterator[str]:
    """`count` lines over the trainable of `scenarios` scenarios, a share of them with a planted fault."""
    drawn = [corpus.scenario(number) for number in range(scenarios)]
    taught = [scenario for scenario in drawn if scenario.split != Split.TEST]
    held_out = corpus.trajectory(-1, next(scenario for scenario in drawn if scenario.split == Split.TEST))
    rng = random.Random(f"{corpus.seed}/plants")
    earlier = corpus.trajectory(0, taught[0])
    for number in range(count):
        sound = corpus.trajectory(number, taught[number % len(taught)])
        if number and rng.random() < planted:
            plant = PLANTS[rng.choice(list(PLANTS))]
            found = plant(corpus, rng, sound, [held_out, earlier])
            yield found if isinstance(found, str) else found.model_dump_json()
        else:
            earlier = sound
            yield sound.model_dump_json()


def write_verified(folder: Path, scenarios: int, count: int, planted: float = 0.03, seed: int = 0) -> int:
    """A sealed `verified` artifact; returns the bytes of its trajectories."""
    trainer = create_trainer("npc_dialogue", WORLD)
    corpus = Corpus(trainer, seed)
    folder.mkdir(parents=True)
    with (folder / "scenarios.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(corpus.scenario(number).model_dump_json() + "\n" for number in range(scenarios))
    with (folder / "trajectories.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in trajectory_lines(corpus, scenarios, count, planted))
    (folder / "quarantine.jsonl").write_text("", encoding="utf-8")
    seal(folder, ArtifactKind.TRAJECTORIES, origin(trainer, WORLD))
    return (folder / "trajectories.jsonl").stat().st_size

"""The same checks as one would first write them: row by row, in plain pydantic, presidio, py3langid and datasketch.

It is what the stage is measured against, and a second opinion on every decision: the checks are written anew here, from
the libraries' documentation, and share with the stage its configuration and the trainer's identities alone.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from datasketch import MinHash, MinHashLSH
from presidio_analyzer import AnalyzerEngine
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import ValidationError

from components.data_validation.personal_data import SECRETS
from components.data_validation.presidio import create_engine
from components.data_validation.spec import DataValidationConfig
from components.data_validation.text import HIDDEN
from components.shared.contracts.records import Scenario, Split, Trajectory
from components.shared.trainers.base_trainer import ModelTypeTrainer

PROTECTED = (Split.TEST, Split.VALIDATION, Split.TRAIN)
Decision = tuple[str, str]
"""A line, and `kept` or the rule that refuses it."""


def words_of(text: str) -> list[str]:
    return text.casefold().split()


def digest(line: str) -> bytes:
    """Who stays of the equally scored is a matter of content, or the order of reading would decide."""
    return hashlib.blake2b(line.encode(), digest_size=16).digest()


def runs(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def strict_json(line: str) -> str | None:
    """The rule by which a line is not JSON by the letter."""

    class Found(ValueError):
        pass

    def constant(text: str) -> None:
        raise Found("not_finite")

    def number(text: str) -> float:
        if not math.isfinite(float(text)):
            raise Found("not_finite")
        return float(text)

    def pairs(items: list) -> dict:
        if len(dict(items)) < len(items):
            raise Found("duplicate_key")
        return dict(items)

    try:
        json.loads(line, parse_constant=constant, parse_float=number, object_pairs_hook=pairs)
    except Found as found:
        return str(found)
    except ValueError:
        return "json"
    return None


class PlainValidator:
    """All checks of one artifact, one row after another."""

    def __init__(self, config: DataValidationConfig, trainer: ModelTypeTrainer):
        self.config, self.policy, self.trainer = config, config.natural, trainer
        self.presidio: AnalyzerEngine = create_engine()
        self.languages = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.documents = {
            n: set().union(*(runs(words_of(d.text), n) for d in trainer.world.documents)) for n in (8, 13)
        }
        self.prompts: dict[str, Split] = {}
        self.ids: dict[str, Split] = {}
        self.known: dict[str, Scenario] = {}
        self.held_out: dict[Split, list[tuple[int, set[tuple[str, ...]]]]] = {}
        self.holders: dict[Split, dict[tuple[str, ...], list[int]]] = {}

    def validate(self, folder: Path) -> Iterator[Decision]:
        """The decision on every scenario and trajectory of an artifact."""
        yield from self.scenarios((folder / "scenarios.jsonl").read_text(encoding="utf-8").splitlines())
        yield from self.trajectories((folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines())

    def parsed(self, line: str, shape: type) -> object:
        """A record, or the rule."""
        if rule := strict_json(line):
            return rule
        try:
            return shape.model_validate_json(line, strict=True)
        except ValidationError as error:
            kind = error.errors()[0]["type"]
            return "range" if kind.startswith(("greater_than", "less_than")) else "schema"

    def scenario_rule(self, scenario: Scenario) -> str | None:
        if scenario.model_type != self.trainer.name:
            return "model_type"
        if scenario.id != self.trainer.scenario_id(scenario.state):
            return "id"
        return "split" if scenario.split != self.trainer.split_of(scenario.group) else None

    def text_rule(self, text: str, beside: str) -> str | None:
        if HIDDEN.search(text):
            return "hidden_characters"
        if sum(-(-len(part.encode()) // 4) for part in (text, beside)) > self.config.max_tokens:
            return "tokens"
        if len(text.encode()) >= self.policy.language_bytes:
            language, probability = self.languages.classify(text)
            if language not in self.policy.languages and probability >= self.policy.language_probability:
                return "language"
        if any(re.search(pattern, text) for pattern in SECRETS.values()):
            return "secret"
        found = self.presidio.analyze(
            text, language="en", entities=list(self.policy.entities), score_threshold=self.policy.entity_score
        )
        return "personal_data" if found else None

    def scenarios(self, lines: list[str]) -> Iterator[Decision]:
        sound = []
        for line in lines:
            scenario = self.parsed(line, Scenario)
            rule = scenario if isinstance(scenario, str) else None
            rule = rule or self.scenario_rule(scenario) or self.text_rule(scenario.prompt, "")
            if rule:
                yield line, rule
            else:
                sound.append((line, scenario))
        for _, scenario in sorted(sound, key=lambda pair: PROTECTED.index(pair[1].split)):
            self.prompts.setdefault(" ".join(words_of(scenario.prompt)), scenario.split)
            self.ids.setdefault(scenario.id, scenario.split)
        distinct, prompts, ids = [], set(), set()
        for line, scenario in sorted(sound, key=lambda pair: pair[1].id):
            prompt = " ".join(words_of(scenario.prompt))
            if self.repeats_protected(scenario):
                yield line, "contamination"
            elif scenario.id in ids or prompt in prompts:
                yield line, "duplicate"
            else:
                ids.add(scenario.id)
                prompts.add(prompt)
                distinct.append((line, scenario))
        self.hold_out([scenario for _, scenario in distinct])
        for line, scenario in distinct:
            if self.contaminated(words_of(scenario.prompt), scenario.split):
                yield line, "contamination"
            else:
                self.known[scenario.id] = scenario
                yield line, "kept"

    def repeats_protected(self, scenario: Scenario) -> bool:
        owners = (self.prompts.get(" ".join(words_of(scenario.prompt))), self.ids.get(scenario.id))
        return any(owner and PROTECTED.index(owner) < PROTECTED.index(scenario.split) for owner in owners)

    def hold_out(self, scenarios: list[Scenario]) -> None:
        """Index the runs that are a held-out prompt's own."""
        for split in PROTECTED[:-1]:
            groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
            texts = []
            for scenario in scenarios:
                if scenario.split == split:
                    words = words_of(scenario.prompt)
                    n = 13 if len(words) >= 13 else 8
                    texts.append((n, runs(words, n)))
                    for run in texts[-1][1]:
                        groups[run].add(scenario.group)
            own = [(n, {r for r in found if len(groups[r]) == 1 and r not in self.documents[n]}) for n, found in texts]
            self.held_out[split] = own
            self.holders[split] = defaultdict(list)
            for i, (_, found) in enumerate(own):
                for run in found:
                    self.holders[split][run].append(i)

    def contaminated(self, words: list[str], split: Split) -> bool:
        for owner in PROTECTED[: PROTECTED.index(split)]:
            for n in (13, 8):
                hits: dict[int, int] = defaultdict(int)
                for run in runs(words, n):
                    for i in self.holders[owner].get(run, ()):
                        hits[i] += 1
                if any(count / len(self.held_out[owner][i][1]) >= self.policy.coverage for i, count in hits.items()):
                    return True
        return False

    def trajectories(self, lines: list[str]) -> Iterator[Decision]:
        standing = []
        for line in lines:
            trajectory = self.parsed(line, Trajectory)
            if rule := trajectory if isinstance(trajectory, str) else self.trajectory_rule(trajectory):
                yield line, rule
            else:
                standing.append((line, trajectory))
        yield from self.distinct(standing)

    def trajectory_rule(self, trajectory: Trajectory) -> str | None:
        scenario, steps = trajectory.scenario, trajectory.steps
        if rule := self.scenario_rule(scenario):
            return rule
        if trajectory.id != self.trainer.trajectory(scenario, steps, teacher="", context=(), attempt=1).id:
            return "id"
        if [step.index for step in steps] != list(range(1, len(steps) + 1)):
            return "steps"
        if any(step.title not in self.trainer.step_titles for step in steps):
            return "steps"
        if trajectory.verdict is None or not trajectory.verdict.passed:
            return "unverified"
        if self.repeats_protected(scenario) or scenario.split == Split.TEST:
            return "contamination"
        if self.known.get(scenario.id) != scenario:
            return "unknown_scenario"
        completion = self.trainer.completion(steps)
        if rule := self.text_rule(completion, scenario.prompt):
            return rule
        if self.contaminated(words_of(completion), scenario.split):
            return "contamination"
        answer = runs(words_of(steps[-1].text), 8)
        if answer and len(answer & runs(words_of(scenario.prompt), 8)) / len(answer) >= self.policy.coverage:
            return "answer_in_prompt"
        return None

    def distinct(self, standing: list[tuple[str, Trajectory]]) -> Iterator[Decision]:
        ids, texts = set(), set()
        index = MinHashLSH(num_perm=125, params=(25, 5))
        signatures = {}
        for line, trajectory in sorted(standing, key=lambda pair: (-pair[1].verdict.score, digest(pair[0]))):
            words = words_of(self.trainer.completion(trajectory.steps))
            text = (" ".join(words_of(trajectory.scenario.prompt)), " ".join(words))
            if trajectory.id in ids or text in texts:
                yield line, "duplicate"
                continue
            signature = MinHash(num_perm=125)
            signature.update_batch([" ".join(run).encode() for run in runs(words, 3)])
            if any(signature.jaccard(signatures[k]) >= self.policy.near_duplicate for k in index.query(signature)):
                yield line, "near_duplicate"
                continue
            ids.add(trajectory.id)
            texts.add(text)
            index.insert(trajectory.id, signature)
            signatures[trajectory.id] = signature
            yield line, "kept"

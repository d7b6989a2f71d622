"""First phase: every record by itself, a shard at a time. What is left for the second phase is one `Row` a trajectory.

All scenarios are read by every shard, since a trajectory is judged by the scenarios that were kept; trajectories are read
once, by one shard, in batches that never hold more than a few megabytes.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from components.data_validation.checks import Claim, Fault, Holdout, fingerprint, scenario_fault, steps_fault
from components.data_validation.duplicates import Row, signature
from components.data_validation.ngrams import Grams
from components.data_validation.overlap import HeldOutText, answer_fault
from components.data_validation.parsing import parse
from components.data_validation.spec import SPEC, DataValidationConfig
from components.data_validation.spool import Place, Refusals, Spool
from components.data_validation.text import Screen, create_counter, create_screen
from components.shared.collaboration.example_generator import PROTECTED, normalised
from components.shared.contracts.records import Record, Rejected, Scenario, Split, Trajectory
from components.shared.storage.quarantine import refuse
from components.shared.trainers.base_trainer import ModelTypeTrainer

BATCH = 512
TAUGHT = (Split.TRAIN, Split.VALIDATION)
T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass
class Sifted:
    """One input's records, decided one by one: those that stand, where they lie, and those that were refused."""

    spool: Spool
    refused: Refusals
    read: int = 0

    @classmethod
    def in_folder(cls, folder: Path, name: str) -> Self:
        return cls(Spool(folder / f"{name}.jsonl"), Refusals(Spool(folder / f"{name}.refused.jsonl")))

    def refuse(self, line: bytes, fault: Fault) -> None:
        self.refused.add(refuse(line, SPEC.name, *fault))

    def batches(self, source: Iterable[bytes | Rejected]) -> Iterator[list[bytes]]:
        """The lines that may be parsed, counted and in batches; those refused unread are put away."""
        for batch in batched(source, BATCH):
            self.read += len(batch)
            for item in batch:
                if isinstance(item, Rejected):
                    self.refused.add(item)
            yield [item for item in batch if isinstance(item, bytes)]


@dataclass
class Scenarios(Sifted):
    """The scenarios' fate."""

    kept: dict[Split, list[Place]] = field(default_factory=lambda: {split: [] for split in Split})
    known: dict[str, Claim] = field(default_factory=dict)
    """The kept ones' claims by id."""
    held_out: HeldOutText | None = None
    """The wording of the held-out prompts, for natural text."""


@dataclass
class Trajectories(Sifted):
    """A shard's trajectories' fate, as far as one record can tell."""

    rows: list[Row] = field(default_factory=list)


class _Sound(NamedTuple):
    """A scenario with no fault of its own."""

    claim: Claim
    line: bytes
    """Fingerprint of its line."""
    place: Place


class Examiner:
    """Checks records by themselves, for one model type and configuration."""

    def __init__(self, config: DataValidationConfig, trainer: ModelTypeTrainer):
        self.config = config
        self.trainer = trainer
        self.formal = trainer.name in config.formal
        self._screen: Screen = create_screen(config, trainer)
        self._count = create_counter(config.tokenizer, self.formal)
        self._coverage = config.natural.coverage

    def scenarios(self, source: Iterable[bytes | Rejected], folder: Path) -> Scenarios:
        """Decide every scenario; the order of reading changes nothing."""
        sifted = Scenarios.in_folder(folder, "scenarios")
        sound: list[_Sound] = []
        for lines in sifted.batches(source):
            records = self._parsed(sifted, lines, Scenario)
            prompts = [scenario.prompt for _, scenario in records]
            text_faults = self._screen.faults(prompts, [""] * len(prompts))
            for (line, scenario), text_fault in zip(records, text_faults, strict=True):
                if fault := scenario_fault(self.trainer, scenario) or text_fault:
                    sifted.refuse(line, fault)
                else:
                    sound.append(_Sound(Claim.of(scenario), fingerprint(line), sifted.spool.append(line)))
        distinct = list(_distinct(sifted, sound))
        if not self.formal:
            sifted.held_out = HeldOutText(_read(sifted, distinct, PROTECTED[:-1]), self.trainer, self._coverage)
            distinct = [found for found in distinct if not self._shared_wording(sifted, found)]
        for found in distinct:
            sifted.known[found.claim.id] = found.claim
            sifted.kept[found.claim.split].append(found.place)
        return sifted

    def _shared_wording(self, sifted: "Scenarios", found: "_Sound") -> bool:
        """Whether a prompt holds the wording of a more protected one, and so was refused."""
        split = found.claim.split
        if sifted.held_out is None or split == PROTECTED[0]:
            return False
        line = sifted.spool.read(found.place)
        fault = sifted.held_out.fault(Grams(normalised(Scenario.model_validate_json(line).prompt)), split)
        if fault:
            sifted.refuse(line, fault)
        return fault is not None

    def trajectories(
        self, source: Iterable[bytes | Rejected], scenarios: Scenarios, folder: Path, shard: int = 0
    ) -> Trajectories:
        """Decide every trajectory of a shard as far as it can be by itself, given the scenarios that were kept."""
        sifted = Trajectories.in_folder(folder, f"trajectories-{shard:05d}")
        judge = _Judge(self.trainer, scenarios, self._coverage)
        for lines in sifted.batches(source):
            standing: list[tuple[bytes, Trajectory]] = []
            for line, trajectory in self._parsed(sifted, lines, Trajectory):
                if fault := judge.record_fault(trajectory):
                    sifted.refuse(line, fault)
                else:
                    standing.append((line, trajectory))
            completions = [self.trainer.completion(trajectory.steps) for _, trajectory in standing]
            prompts = [trajectory.scenario.prompt for _, trajectory in standing]
            text_faults = self._screen.faults(completions, prompts)
            for (line, trajectory), completion, fault in zip(standing, completions, text_faults, strict=True):
                said = normalised(completion)
                grams = None if self.formal else Grams(said)
                if fault := fault or (judge.overlap_fault(trajectory, grams) if grams else None):
                    sifted.refuse(line, fault)
                else:
                    place = sifted.spool.append(line)
                    prompt = scenarios.known[trajectory.scenario.id].prompt
                    sifted.rows.append(self._row(trajectory, prompt, said, grams, place, fingerprint(line), shard))
        return sifted

    def _parsed(self, sifted: Sifted, lines: list[bytes], shape: type[R]) -> list[tuple[bytes, R]]:
        records = []
        for line in lines:
            record = parse(line, shape, self.config.caps.depth)
            if isinstance(record, tuple):
                sifted.refuse(line, record)
            else:
                records.append((line, record))
        return records

    def _row(
        self,
        trajectory: Trajectory,
        prompt: bytes,
        said: str,
        grams: Grams | None,
        place: Place,
        digest: bytes,
        shard: int,
    ) -> Row:
        scenario, steps = trajectory.scenario, trajectory.steps
        score = trajectory.verdict.score if trajectory.verdict else 0.0
        return Row(
            shard=shard,
            place=place,
            digest=digest,
            id=trajectory.id,
            split=scenario.split,
            source=trajectory.teacher,
            kind=scenario.group.partition("/")[0],
            prompt=prompt,
            completion=fingerprint(said),
            words=said if self.formal else None,
            signature=signature(grams) if grams else None,
            score=score,
            numbers=(
                float(self._count(scenario.prompt)),
                float(self._count(said)),
                float(len(steps)),
                score,
                sum(step.reward for step in steps) / len(steps),
                scenario.difficulty,
            ),
        )


class _Judge:
    """What a trajectory is held against: the kept scenarios and, for natural text, the held-out prompts' wording."""

    def __init__(self, trainer: ModelTypeTrainer, scenarios: Scenarios, coverage: float):
        self._trainer = trainer
        self._coverage = coverage
        self._known = scenarios.known
        self._held_out = scenarios.held_out
        self._holdout = Holdout.of(scenarios.known.values())

    def record_fault(self, trajectory: Trajectory) -> Fault | None:
        """What is wrong with its fields, or with the scenario that it says it answers."""
        scenario = trajectory.scenario
        claim = Claim.of(scenario)
        if self._known.get(scenario.id) == claim:  # the very scenario that was found sound
            return steps_fault(self._trainer, trajectory) or _untaught(scenario)
        return (
            scenario_fault(self._trainer, scenario)
            or steps_fault(self._trainer, trajectory)
            or self._holdout.fault(claim)
            or _untaught(scenario)
            or ("unknown_scenario", f"scenario {scenario.id} is not the one kept under that id")
        )

    def overlap_fault(self, trajectory: Trajectory, grams: Grams) -> Fault | None:
        """Natural text that holds what is held out, or that its own prompt holds already."""
        if self._held_out and (fault := self._held_out.fault(grams, trajectory.scenario.split)):
            return fault
        return answer_fault(trajectory.scenario.prompt, trajectory.steps[-1].text, self._coverage)


def _distinct(sifted: Sifted, sound: Iterable["_Sound"]) -> Iterator["_Sound"]:
    """Scenarios that repeat none of a more protected split and none of their own; the rest is refused."""
    sound = sorted(sound, key=lambda found: (found.claim.id, found.line))
    holdout = Holdout.of(found.claim for found in sound)
    ids: set[str] = set()
    prompts: set[bytes] = set()
    for found in sound:
        claim = found.claim
        fault = holdout.fault(claim)
        if not fault and (claim.id in ids or claim.prompt in prompts):
            fault = "duplicate", f"scenario {claim.id} repeats another's id or prompt"
        if fault:
            sifted.refuse(sifted.spool.read(found.place), fault)
            continue
        ids.add(claim.id)
        prompts.add(claim.prompt)
        yield found


def _read(sifted: Sifted, found: Iterable["_Sound"], splits: Sequence[Split]) -> Iterator[Scenario]:
    places = (item.place for item in found if item.claim.split in splits)
    return map(Scenario.model_validate_json, sifted.spool.read_all(places))


def _untaught(scenario: Scenario) -> Fault | None:
    if scenario.split in TAUGHT:
        return None
    return "contamination", f"a worked answer to a {scenario.split} scenario"


def batched(source: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(source)
    while batch := list(itertools.islice(iterator, size)):
        yield batch

"""Decide, record by record, what may be trained on and what may only be tested on."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from components.data_validation.checks import Holdout, scenario_fault, trajectory_fault
from components.data_validation.duplicates import Row, split_duplicates
from components.data_validation.spec import SPEC, DataValidationConfig
from components.data_validation.summary import as_markdown
from components.shared.collaboration.example_generator import normalised
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Rejected, Scenario, Split, Trajectory
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker, progress
from components.shared.storage.artifacts import canonical_json, read_manifest, write_text
from components.shared.storage.jsonl import write_jsonl
from components.shared.storage.quarantine import lines, refuse, sift
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.training.datasets import origin, recreate_trainer

READ = 5
"""Refused records that a person reads in the report."""
TAUGHT = (Split.TRAIN, Split.VALIDATION)


@dataclass
class Sifted:
    """One file's lines, decided: kept ones by split, refused ones with their reason."""

    read: int = 0
    kept: dict[Split, list[bytes]] = field(default_factory=lambda: {split: [] for split in Split})
    refused: list[Rejected] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Raises PipelineError where a record was lost or made."""
        kept, quarantined = sum(map(len, self.kept.values())), len(self.refused)
        if kept + quarantined != self.read:
            raise PipelineError(f"{kept} kept and {quarantined} refused of {self.read} read: data_validation lost some")
        return {"read": self.read, "kept": kept, "quarantined": quarantined}

    def refuse(self, line: bytes, rule: str, reason: str) -> None:
        self.refused.append(refuse(line, SPEC.name, rule, reason))


def run(config: DataValidationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Write the data set, its quarantine and the counts; stop the night where too little or too much is wrong."""
    source, folder = inputs["verified"], outputs["dataset"]
    metadata = read_manifest(source).metadata
    trainer = recreate_trainer(metadata)
    scenarios, known = sift_scenarios(trainer, lines(source / "scenarios.jsonl"))
    trajectories = sift_trajectories(trainer, list(lines(source / "trajectories.jsonl")), known, config.near_duplicate)
    carried = [sift(line, Rejected, SPEC.name) for line in lines(source / "quarantine.jsonl")]
    refused = sorted([*trajectories.refused, *scenarios.refused], key=Rejected.model_dump_json)
    counts = summarise(scenarios, trajectories, carried)
    admit(config, scenarios, trajectories, counts)

    for split in Split:
        write_lines(folder / "scenarios" / f"{split}.jsonl", scenarios.kept[split])
    for split in TAUGHT:
        write_lines(folder / f"{split}.jsonl", trajectories.kept[split])
    write_jsonl(folder / "quarantine.jsonl", [*carried, *refused])
    write_text(folder / "validation.json", json.dumps(counts, indent=1) + "\n")
    write_text(outputs["report"] / "summary.md", as_markdown(trainer.name, counts, refused[:READ]))
    tracker = PerformanceTracker(outputs["report"])
    for rejected in refused[:READ]:
        tracker.sample(0, rule=rejected.rule, reason=rejected.reason, record=rejected.record)
    sizes = {f"{split}_trajectories": len(trajectories.kept[split]) for split in TAUGHT}
    sizes |= {f"{split}_scenarios": len(scenarios.kept[split]) for split in Split}
    return Report(
        stage=SPEC.name,
        summary=f"{sizes['train_trajectories']} trajectories to train on, {sizes['test_scenarios']} held-out scenarios; "
        f"{len(refused)} records refused here",
        metrics={name: float(size) for name, size in sizes.items()} | {"refused": float(len(refused))},
        details=counts,
        artifacts={"dataset": {**origin(trainer, str(metadata["world"])), "counts": dict(sizes)}},
    )


def sift_scenarios(trainer: ModelTypeTrainer, source: Iterable[bytes]) -> tuple[Sifted, dict[str, Scenario]]:
    """The scenarios' fate, and those kept by id."""
    sifted = Sifted()
    sound: list[tuple[bytes, Scenario]] = []
    for line in source:
        sifted.read += 1
        scenario = sift(line, Scenario, SPEC.name)
        if isinstance(scenario, Rejected):
            sifted.refused.append(scenario)
        elif fault := scenario_fault(trainer, scenario):
            sifted.refuse(line, *fault)
        else:
            sound.append((line, scenario))
    holdout = Holdout.of([scenario for _, scenario in sound])
    known: dict[str, Scenario] = {}
    prompts: set[str] = set()
    for line, scenario in sorted(sound, key=lambda pair: (pair[1].id, pair[0])):
        if fault := holdout.fault(scenario):
            sifted.refuse(line, *fault)
        elif scenario.id in known or normalised(scenario.prompt) in prompts:
            sifted.refuse(line, "duplicate", f"scenario {scenario.id} repeats another's id or prompt")
        else:
            known[scenario.id] = scenario
            prompts.add(normalised(scenario.prompt))
            sifted.kept[scenario.split].append(line)
    return sifted, known


def sift_trajectories(
    trainer: ModelTypeTrainer, source: list[bytes], known: Mapping[str, Scenario], near: float
) -> Sifted:
    """The trajectories' fate, given the scenarios that were kept."""
    sifted = Sifted(read=len(source))
    holdout = Holdout.of(list(known.values()))
    rows: list[Row] = []
    for line in progress(source, "data validation"):
        trajectory = sift(line, Trajectory, SPEC.name)
        if isinstance(trajectory, Rejected):
            sifted.refused.append(trajectory)
            continue
        scenario = trajectory.scenario
        fault = trajectory_fault(trainer, trajectory) or holdout.fault(scenario)
        if not fault and scenario.split not in TAUGHT:
            fault = "contamination", f"a worked answer to a {scenario.split} scenario"
        if not fault and known.get(scenario.id) != scenario:
            fault = "unknown_scenario", f"scenario {scenario.id} is not the one kept under that id"
        if fault:
            sifted.refuse(line, *fault)
        else:
            rows.append(as_row(trainer, line, trajectory))
    kept, gone = split_duplicates(rows, near)
    for row, rule, reason in gone:
        sifted.refuse(row.line, rule, reason)
    for row in kept:
        sifted.kept[known[row.scenario].split].append(row.line)
    return sifted


def as_row(trainer: ModelTypeTrainer, line: bytes, trajectory: Trajectory) -> Row:
    return Row(
        line=line,
        id=trajectory.id,
        scenario=trajectory.scenario.id,
        prompt=normalised(trajectory.scenario.prompt),
        completion=normalised(trainer.completion(trajectory.steps)),
        score=trajectory.verdict.score if trajectory.verdict else 0.0,
    )


def summarise(scenarios: Sifted, trajectories: Sifted, carried: list[Rejected]) -> dict[str, JsonValue]:
    """Counts by file, by split and by rule."""
    rules = Counter(r.rule for r in (*scenarios.refused, *trajectories.refused))
    earlier = Counter(f"{r.stage}/{r.rule}" for r in carried)
    return {
        "scenarios": {**scenarios.counts, **{str(s): len(kept) for s, kept in scenarios.kept.items()}},
        "trajectories": {**trajectories.counts, **{str(s): len(trajectories.kept[s]) for s in TAUGHT}},
        "rules": dict(sorted(rules.items())),
        "carried": dict(sorted(earlier.items())),
    }


def admit(config: DataValidationConfig, scenarios: Sifted, trajectories: Sifted, counts: dict[str, JsonValue]) -> None:
    """Raise GateError where the data set is too small, or its source too bad, to train on."""
    rules = f"refused by rule: {canonical_json(counts['rules'])}"
    for what, sifted in (("trajectories", trajectories), ("scenarios", scenarios)):
        share = len(sifted.refused) / sifted.read if sifted.read else 0.0
        if share > config.max_quarantined:
            raise GateError(
                f"{share:.0%} of {sifted.read} {what} refused, more than max_quarantined = "
                f"{config.max_quarantined:.0%}: mend their source ({rules})"
            )
    for field_name, found, what in (
        ("min_train", len(trajectories.kept[Split.TRAIN]), "training trajectories"),
        ("min_test", len(scenarios.kept[Split.TEST]), "held-out scenarios"),
    ):
        if found < (needed := getattr(config, field_name)):
            raise GateError(f"{found} {what}, {field_name} = {needed} needed: generate more scenarios ({rules})")


def write_lines(path: Path, records: Iterable[bytes]) -> None:
    """Write records as they came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.writelines(record + b"\n" for record in records)

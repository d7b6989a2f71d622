"""Decide, record by record, what may be trained on and what may only be tested on."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue, ValidationError

from components.data_validation.decide import check_balance, check_drift, decide
from components.data_validation.examine import TAUGHT, Examiner, Scenarios, Trajectories
from components.data_validation.findings import Findings, find
from components.data_validation.intake import counted, raw_lines, shards
from components.data_validation.profile import Profile
from components.data_validation.report import write_report
from components.data_validation.spec import FIRST_NIGHT, SPEC, DataValidationConfig
from components.data_validation.spool import Refusals, Spool, merged
from components.shared.contracts.errors import CorruptArtifact, GateError
from components.shared.contracts.records import Rejected, Split
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import progress
from components.shared.storage.artifacts import canonical_json, read_manifest, write_text
from components.shared.storage.places import get_text
from components.shared.storage.quarantine import refuse, sift
from components.shared.training.datasets import origin, recreate_trainer

WORK = "work"
"""Folder of the dataset's that holds spools while the stage runs."""


def run(config: DataValidationConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Write the data set, its quarantine and the counts; stop the night where too little or too much is wrong."""
    source, work = inputs["verified"], outputs["dataset"] / WORK
    metadata = read_manifest(source).metadata
    examiner = Examiner(config, recreate_trainer(metadata))
    scenarios = examiner.scenarios(raw_lines(shards(source, "scenarios"), config.caps), work)
    files = shards(source, "trajectories")
    lines = raw_lines(files, config.caps)
    if total := counted(files):
        lines = progress(lines, "data validation", total)
    trajectories = examiner.trajectories(lines, scenarios, work)
    return finish(examiner, scenarios, [trajectories], source, outputs)


def finish(
    examiner: Examiner,
    scenarios: Scenarios,
    trajectories: Sequence[Trajectories],
    source: Path,
    outputs: Mapping[str, Path],
) -> Report:
    """Judge what the shards found, and write what the stage writes; `source` is the artifact they came from.

    Shards are given in the order of the numbers that their rows have.
    """
    config, trainer, folder = examiner.config, examiner.trainer, outputs["dataset"]
    accepted = accepted_profile(config.accepted)
    decision = decide(config, [row for shard in trajectories for row in shard.rows], accepted)
    late = Refusals(Spool(folder / WORK / "late.refused.jsonl"))
    for row, rule, reason in decision.gone:
        late.add(refuse(trajectories[row.shard].spool.read(row.place), SPEC.name, rule, reason))
    refused = [scenarios.refused, *(shard.refused for shard in trajectories), late]
    carried = list(carry(source, config))
    findings = find(trainer.name, scenarios, trajectories, decision, refused, carried)
    admit(config, findings)

    for split in Split:
        kept = scenarios.spool.read_all(scenarios.kept[split])
        write_lines(folder / "scenarios" / f"{split}.jsonl", kept)
    for split in TAUGHT:
        kept = (trajectories[row.shard].spool.read(row.place) for row in decision.of_split(split))
        write_lines(folder / f"{split}.jsonl", kept)
    earlier = (rejected.model_dump_json().encode() for rejected in carried)
    write_lines(folder / "quarantine.jsonl", itertools.chain(earlier, merged(refused)))
    write_text(folder / "validation.json", json.dumps(findings.counts, indent=1) + "\n")
    write_text(folder / "profile.json", decision.profile.model_dump_json(indent=1) + "\n")
    write_report(outputs["report"], findings)
    shutil.rmtree(folder / WORK)
    # Which night it was compared with changes nothing in a data set: what is trained on it stays in the cache.
    facts = {"config": config.model_dump(mode="json", exclude={"accepted"})}
    return report_of(findings, {**origin(trainer, str(read_manifest(source).metadata["world"])), **facts})


def accepted_profile(place: str) -> Profile | None:
    """The last accepted night's profile. Raises PipelineError where it is not there, or is none."""
    if place == FIRST_NIGHT:
        return None
    try:
        return Profile.model_validate_json(get_text(place))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]["msg"]
        raise CorruptArtifact(
            f"accepted = {place!r} is no profile ({fault}): give the profile.json of an accepted data set, or {FIRST_NIGHT}"
        ) from error


def carry(source: Path, config: DataValidationConfig) -> Iterator[Rejected]:
    """What earlier stages refused, as they left it; a line that is no refusal is refused here."""
    for line in raw_lines(shards(source, "quarantine"), config.caps):
        yield line if isinstance(line, Rejected) else sift(line, Rejected, SPEC.name)


def admit(config: DataValidationConfig, findings: Findings) -> None:
    """Raise GateError where the data set is too small, leans or has drifted too far, or its source is too bad."""
    counts = findings.counts
    rules = f"refused by rule: {canonical_json(counts['rules'])}"
    for what in ("trajectories", "scenarios"):
        read, quarantined = counts[what]["read"], counts[what]["quarantined"]
        share = quarantined / read if read else 0.0
        if share > config.max_quarantined:
            raise GateError(
                f"{share:.0%} of {read} {what} refused, more than max_quarantined = "
                f"{config.max_quarantined:.0%}: mend their source ({rules})"
            )
    for field_name, found, what in (
        ("min_train", counts["trajectories"][Split.TRAIN], "training trajectories"),
        ("min_test", counts["scenarios"][Split.TEST], "held-out scenarios"),
    ):
        if found < (needed := getattr(config, field_name)):
            raise GateError(f"{found} {what}, {field_name} = {needed} needed: generate more scenarios ({rules})")
    check_balance(counts["classes"], config.max_class_share)
    findings.warnings.extend(check_drift(findings.drift, config.drift.warn, config.drift.block))


def report_of(findings: Findings, metadata: dict[str, JsonValue]) -> Report:
    """The stage's report, and what the dataset's manifest says."""
    counts = findings.counts
    sizes = {f"{split}_trajectories": counts["trajectories"][split] for split in TAUGHT}
    sizes |= {f"{split}_scenarios": counts["scenarios"][split] for split in Split}
    refused = sum(counts["rules"].values())
    warned = f"; warned: {'; '.join(findings.warnings)}" if findings.warnings else ""
    return Report(
        stage=SPEC.name,
        summary=f"{sizes['train_trajectories']} trajectories to train on, {sizes['test_scenarios']} held-out scenarios; "
        f"{refused} records refused here{warned}",
        metrics={name: float(size) for name, size in sizes.items()}
        | {"refused": float(refused)}
        | {f"psi_{name}": moved.index for name, moved in findings.drift.items()},
        details=counts,
        artifacts={"dataset": {**metadata, "counts": dict(sizes), "sources": sorted(counts["sources"])}},
    )


def write_lines(path: Path, records: Iterable[bytes]) -> None:
    """Write records as they came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.writelines(record + b"\n" for record in records)

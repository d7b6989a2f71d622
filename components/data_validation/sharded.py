"""The stage over more data than one machine takes: the same checks, in two jobs.

    python -m components.data_validation.sharded examine --config FILE --verified DIR --trajectories DIR --output DIR
    python -m components.data_validation.sharded decide --config FILE --verified DIR --examined DIR --dataset DIR \\
        --report DIR

The artifact has its trajectories in several files, trajectories-00000.jsonl and so on. `examine` runs on every instance of
a job that gets these by ShardedByS3Key and the rest (manifest, scenarios, earlier quarantine) FullyReplicated; it takes its
number from SageMaker's resource configuration, or from --shard. What each instance leaves is a sealed folder: sound lines,
refused lines, and a row of about a kilobyte a trajectory with its signature. `decide` runs on one instance, puts signatures
into buckets and writes the dataset. It refuses shards that leave out a file of the artifact's manifest or have one twice.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue, TypeAdapter

from components.data_validation.duplicates import Row
from components.data_validation.examine import Examiner, Trajectories
from components.data_validation.intake import raw_lines, shards
from components.data_validation.run import WORK, finish
from components.data_validation.spec import SPEC, DataValidationConfig
from components.data_validation.spool import Refusals, Spool
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import CorruptArtifact, UsageError, program
from components.shared.contracts.stage import ArtifactKind, Report
from components.shared.storage.artifacts import (
    Manifest,
    file_digest,
    read_manifest,
    seal,
    verify,
    whole,
    write_text,
)
from components.shared.storage.yaml_files import read_mapping
from components.shared.training.datasets import recreate_trainer

RESOURCES = Path("/opt/ml/config/resourceconfig.json")
"""Where SageMaker tells a processing job's instance which of them it is."""
REPORT = "report.json"
ROWS = "rows.jsonl"
SHAPE = TypeAdapter(Row)


def examine_shard(config: DataValidationConfig, verified: Path, trajectories: Path, output: Path, shard: int) -> None:
    """Judge the trajectories of one folder by themselves, and seal what was found.

    Raises CorruptArtifact for a file that the artifact's manifest does not cover.
    """
    manifest = checked_manifest(verified)
    # An instance may be given no file at all: then it has nothing to say, and says so.
    files = shards(trajectories, "trajectories") if any(trajectories.iterdir()) else []
    sums = {path.name: checked_sum(path, manifest) for path in files}
    examiner = Examiner(config, recreate_trainer(manifest.metadata))
    with whole(output) as folder:
        scenarios = examiner.scenarios(raw_lines(shards(verified, "scenarios"), config.caps), folder / WORK)
        sifted = examiner.trajectories(raw_lines(files, config.caps), scenarios, folder, shard)
        for spool in (sifted.spool, sifted.refused.spool, scenarios.spool, scenarios.refused.spool):
            spool.close()
        shutil.rmtree(folder / WORK)
        with (folder / ROWS).open("wb") as f:
            f.writelines(SHAPE.dump_json(row) + b"\n" for row in sifted.rows)
        facts: dict[str, Any] = {"shard": shard, "files": sums, "read": sifted.read, **origin_of(config, manifest)}
        seal(folder, ArtifactKind.TRAJECTORIES, facts)


def decide_shards(config: DataValidationConfig, verified: Path, examined: Path, dataset: Path, report: Path) -> Report:
    """Judge all that the shards found, and write the stage's two outputs.

    Raises CorruptArtifact for shards of another configuration or artifact, or that are not all of it.
    """
    manifest = checked_manifest(verified)
    examiner = Examiner(config, recreate_trainer(manifest.metadata))
    found = load_shards(examined, manifest, origin_of(config, manifest))
    with whole(dataset) as dataset_folder, whole(report) as report_folder:
        scenarios = examiner.scenarios(raw_lines(shards(verified, "scenarios"), config.caps), dataset_folder / WORK)
        outcome = finish(examiner, scenarios, found, verified, {"dataset": dataset_folder, "report": report_folder})
        write_text(report_folder / REPORT, json.dumps(outcome.model_dump(mode="json"), indent=1) + "\n")
        lineage = origin_of(config, manifest)
        seal(report_folder, ArtifactKind.REPORT, lineage)
        seal(dataset_folder, ArtifactKind.DATASET, {**lineage, **outcome.artifacts["dataset"]})
    return outcome


def origin_of(config: DataValidationConfig, manifest: Manifest) -> dict[str, JsonValue]:
    """Where shards and outputs come from, in the words of every stage's lineage."""
    return {"stage": SPEC.name, "config": config.model_dump(mode="json"), "inputs": {"verified": manifest.digest}}


def checked_manifest(verified: Path) -> Manifest:
    """The artifact's manifest, the sums of its scenarios and quarantine checked; trajectories lie elsewhere."""
    manifest = read_manifest(verified)
    for path in (p for name in ("scenarios", "quarantine") for p in shards(verified, name)):
        checked_sum(path, manifest)
    return manifest


def checked_sum(path: Path, manifest: Manifest) -> str:
    digest = file_digest(path)
    if manifest.files.get(path.name) != digest:
        raise CorruptArtifact(f"{path} does not match the artifact's manifest: produce the artifact again")
    return digest


def load_shards(examined: Path, manifest: Manifest, origin: Mapping[str, JsonValue]) -> list[Trajectories]:
    """What every shard found, in the order of their numbers."""
    sealed = [(path, verify(path, ArtifactKind.TRAJECTORIES).metadata) for path in sorted(examined.iterdir())]
    for path, facts in sealed:
        if any(facts.get(key) != value for key, value in origin.items()):
            raise CorruptArtifact(f"{path} was examined with another configuration or artifact: examine it again")
    wanted = sorted(name for name in manifest.files if name.startswith("trajectories"))
    files = sorted(name for _, facts in sealed for name in cast(dict[str, str], facts["files"]))
    if files != wanted:
        raise CorruptArtifact(f"{examined} has seen {files}, the artifact has {wanted}: examine each file once")
    numbered = sorted((cast(int, facts["shard"]), path, cast(int, facts["read"])) for path, facts in sealed)
    found = [load_shard(path, number, read) for number, path, read in numbered]
    return [renumbered(shard, i) for i, shard in enumerate(found)]


def renumbered(found: Trajectories, shard: int) -> Trajectories:
    """A shard's rows under its place among those that are there."""
    return replace(found, rows=[replace(row, shard=shard) for row in found.rows])


def load_shard(folder: Path, shard: int, read: int) -> Trajectories:
    """What one shard left."""
    name = f"trajectories-{shard:05d}"
    with (folder / ROWS).open("rb") as f:
        rows = [SHAPE.validate_json(line) for line in f]
    return Trajectories(
        spool=Spool.reopened(folder / f"{name}.jsonl"),
        refused=Refusals.reopened(folder / f"{name}.refused.jsonl"),
        read=read,
        rows=rows,
    )


def number_of(shard: int | None) -> int:
    """Which shard this is. Raises UsageError where nobody says."""
    if shard is not None:
        return shard
    if not RESOURCES.is_file():
        raise UsageError(f"no {RESOURCES}: give --shard N")
    resources = json.loads(RESOURCES.read_text(encoding="utf-8"))
    return sorted(resources["hosts"]).index(resources["current_host"])


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m components.data_validation.sharded", description=__doc__.split("\n")[0])
    jobs = p.add_subparsers(dest="job", required=True)
    examine, decide = jobs.add_parser("examine"), jobs.add_parser("decide")
    for job in (examine, decide):
        job.add_argument("--config", type=Path, help="YAML file of the stage's configuration")
        job.add_argument("--verified", type=Path, required=True, help="manifest, scenarios and quarantine")
    examine.add_argument("--trajectories", type=Path, required=True, help="this shard's files")
    examine.add_argument("--output", type=Path, required=True, help="folder of all shards; one is added")
    examine.add_argument("--shard", type=int)
    decide.add_argument("--examined", type=Path, required=True, help="the folder of all shards")
    decide.add_argument("--dataset", type=Path, required=True)
    decide.add_argument("--report", type=Path, required=True)
    return p


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two jobs; returns the process's exit code."""
    a = parser().parse_args(argv)
    config = parse_config(DataValidationConfig, read_mapping(a.config) if a.config else {}, SPEC.name)
    if a.job == "examine":
        shard = number_of(a.shard)
        examine_shard(config, a.verified, a.trajectories, a.output / f"shard-{shard:05d}", shard)
    else:
        print(decide_shards(config, a.verified, a.examined, a.dataset, a.report).summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())

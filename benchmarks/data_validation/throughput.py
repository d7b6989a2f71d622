"""One pass over many trajectories: memory, rows per second, and the ratio to the same checks written row by row.

    python -m benchmarks.data_validation.throughput [--rows 200000] [--sample 4000]

The stage runs in a process of its own, so that its peak memory is its own. Both sides then validate a smaller artifact,
where each of their decisions must be the same. Seconds are processor seconds of one core; imports are on neither side of
the ratio, but the stage's seconds hold everything else: reading the language model, writing and sealing the outputs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

from benchmarks.data_validation.corpus import NATURAL, WORLD, write_verified
from benchmarks.measures import Measure, publish
from components.data_validation.spec import SPEC, DataValidationConfig
from components.entrypoints.execution import Request, execute
from components.shared.contracts.records import Split
from components.shared.trainers.trainer_factory import create_trainer

MEMORY = 1.5
RATIO = 5.0


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rows", type=int, default=200_000)
    p.add_argument("--sample", type=int, default=4_000)
    p.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.stage:
        return run_stage(a.stage)
    with tempfile.TemporaryDirectory() as scratch:
        many, few = measured(Path(scratch) / "many", a.rows), measured(Path(scratch) / "few", a.sample)
        plain_seconds, differing, decisions = plain(Path(scratch) / "few")
    fixed = few["seconds"] - few["load"]
    stage_rate = a.rows / (many["seconds"] - many["load"])
    plain_rate = a.sample / plain_seconds
    print(
        f"stage, {a.rows} rows of {many['bytes'] / 1e6:.0f} MB: {many['seconds']:.1f} s, {stage_rate:.0f} rows/s, "
        f"{many['wall']:.1f} s on the clock, peak {many['gib']:.2f} GiB"
    )
    print(f"stage, {a.sample} rows: {a.sample / fixed:.0f} rows/s")
    print(f"row by row, {a.sample} rows: {plain_seconds:.1f} s, {plain_rate:.0f} rows/s")
    print(f"decisions: {differing} of {sum(decisions.values())} differ; {dict(sorted(decisions.items()))}")
    ratio = stage_rate / plain_rate
    return publish(
        Measure(
            name=f"validated rows a CPU second, {a.rows:,} rows, times the same checks row by row",
            unit="x",
            ours=ratio,
            at_least=RATIO,
            note=f"{stage_rate:,.0f} rows/s against {plain_rate:,.0f}",
        ),
        Measure(name=f"peak memory, {a.rows:,} rows", unit="GiB", ours=many["gib"], at_most=MEMORY),
        Measure(name="decisions that differ from row by row", unit="", ours=differing, at_most=0),
    )


def measured(folder: Path, rows: int) -> dict[str, float]:
    """The stage over `rows` rows, in a process of its own."""
    size = write_verified(folder / "verified", scenarios=max(200, rows // 4), count=rows)
    command = [sys.executable, "-m", "benchmarks.data_validation.throughput", "--stage", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    return {**json.loads(output.splitlines()[-1]), "bytes": size}


def run_stage(folder: Path) -> int:
    from components.data_validation.presidio import create_engine

    create_engine()
    load = time.process_time()
    began = time.perf_counter()
    outputs = {"dataset": folder / "dataset", "report": folder / "report"}
    execute(Request(spec=SPEC, config=NATURAL, inputs={"verified": folder / "verified"}, outputs=outputs))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts = {"seconds": time.process_time(), "load": load, "wall": time.perf_counter() - began}
    print(json.dumps({**facts, "gib": usage.ru_maxrss / 2**20}))
    return 0


def plain(folder: Path) -> tuple[float, int, Counter[str]]:
    """Seconds of the plain validator, decisions that the stage made otherwise, and what was decided how often."""
    from benchmarks.data_validation.plain import PlainValidator

    validator = PlainValidator(DataValidationConfig(**NATURAL), create_trainer("npc_dialogue", WORLD))
    began = time.process_time()
    decisions = list(validator.validate(folder / "verified"))
    seconds = time.process_time() - began
    mine, theirs = Counter(stage_decisions(folder / "dataset")), Counter(map(comparable, decisions))
    return seconds, sum((mine - theirs).values()), Counter(rule for _, rule in decisions)


def stage_decisions(dataset: Path) -> list[tuple[str, str]]:
    found = []
    for split in Split:
        files = [dataset / "scenarios" / f"{split}.jsonl", dataset / f"{split}.jsonl"]
        found += [(line, "kept") for file in files if file.is_file() for line in file.read_text().splitlines()]
    rejected = map(json.loads, (dataset / "quarantine.jsonl").read_text(encoding="utf-8").splitlines())
    found += [
        (json.dumps(r["record"]) if not isinstance(r["record"], str) else r["record"], r["rule"]) for r in rejected
    ]
    return [comparable(decision) for decision in found]


def comparable(decision: tuple[str, str]) -> tuple[str, str]:
    """A decision with its line as canonical JSON where it is JSON: a quarantine keeps the value, not the spelling."""
    line, rule = decision
    try:
        return json.dumps(json.loads(line), sort_keys=True), rule
    except ValueError:
        return line, rule


if __name__ == "__main__":
    sys.exit(main())

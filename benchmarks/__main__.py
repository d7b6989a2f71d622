"""Run benchmarks and write docs/benchmarks.md from all results that are recorded.

    python -m benchmarks                         everything, in a row
    python -m benchmarks training serving.router_overhead
    python -m benchmarks serving.router_overhead -- --stream
    python -m benchmarks --table                 only the table and its drawing

A name is that of a file or a folder; what follows `--` goes to the benchmark. Each is a process of its own, whose last line
of output is kept in benchmarks/results/. A missed target stays in the table; a benchmark that breaks leaves its old result.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measures import Result, read_result
from benchmarks.table import write_table

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
BENCHMARKS = (
    "training.reward",
    "training.supervised",
    "training.policy_update",
    "training.rollout",
    "training.zero_variance",
    "training.cpu_to_reward",
    "serving.tier_latency",
    "serving.router_overhead",
    "serving.hot_swap",
    "serving.cost_quality",
    "collaboration.retrieval",
    "collaboration.orchestration",
    "collaboration.kills",
    "data_validation.broken_input",
    "data_validation.throughput",
    "local_engine",
)


def main() -> int:
    given, _, passed = (list(part) for part in partition(sys.argv[1:], "--"))
    parser = argparse.ArgumentParser(description="Run benchmarks and write docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args(given)
    chosen = [] if options.table else chosen_of(options.names, parser)
    if passed and len(chosen) != 1:
        parser.error("arguments after -- go to one benchmark: name it")
    broken = [name for name in chosen if not run(name, passed)]
    recorded = {
        name: Result.model_validate_json(path.read_text()) for name in BENCHMARKS if (path := file(name)).is_file()
    }
    write_table(recorded, PROJECT / "docs")
    if broken:
        print(f"error: no result from {', '.join(broken)}: look at what it printed", file=sys.stderr)
    return int(bool(broken))


def partition(items: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    at = items.index(mark) if mark in items else len(items)
    return items[:at], items[at : at + 1], items[at + 1 :]


def chosen_of(names: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The benchmarks that the names mean; all of them without names."""
    for name in names:
        if not any(matches(known, name) for known in BENCHMARKS):
            parser.error(f"no benchmark {name}: choose from {', '.join(BENCHMARKS)}")
    return [known for known in BENCHMARKS if not names or any(matches(known, name) for name in names)]


def matches(known: str, name: str) -> bool:
    return known == name or known.startswith(f"{name}.")


def file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def run(name: str, passed: list[str]) -> bool:
    """Run one and keep its result; false where it gave none."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *passed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment)
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if not line.startswith('{"measures"'):
            print(line, end="", flush=True)
    process.wait()
    result = read_result("".join(lines))
    if result is not None:
        RESULTS.mkdir(exist_ok=True)
        file(name).write_text(result.model_dump_json(indent=1) + "\n")
    return result is not None


if __name__ == "__main__":
    sys.exit(main())

"""What the local engine itself costs: a stage, a cached stage, compiling, and the command's first answer.

    python -m benchmarks.local_engine

Stages are those of tests/pipelines/toy_stages, which do next to nothing; what is measured is everything around them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measures import Measure, publish

TOYS = Path(__file__).parents[1] / "tests" / "pipelines" / "toy_stages"
sys.path.insert(0, str(TOYS))
os.environ["PYTHONPATH"] = str(TOYS)
REPEATS = 5
HELP_SECONDS = 0.3


def main() -> int:
    from toys import run_toys

    from pipelines.compilers.kubeflow import compile_dag, to_yaml
    from pipelines.configuration import load_settings

    with tempfile.TemporaryDirectory() as folder:
        fresh, cached = [], []
        for number in range(REPEATS):
            runs = Path(folder) / str(number)
            fresh += overheads(run_toys(runs, "fresh"))
            cached += overheads(run_toys(runs, "again"))
    compiling = timed(lambda: to_yaml(compile_dag("nightly", load_settings("local"))))
    helping = timed(lambda: subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True))
    return publish(
        median("overhead of a stage that runs", fresh),
        median("overhead of a cached stage", cached),
        median("compile nightly to YAML", compiling),
        median("srl-rlvr --help", helping, at_most=HELP_SECONDS),
    )


HELP = "from pipelines.cli import cli; cli.main(args=['--help'])"


def overheads(folder) -> list[float]:
    return [task.overhead_seconds for task in folder.state.tasks.values()]


def timed(work) -> list[float]:
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def median(what: str, seconds: list[float], **target: float) -> Measure:
    worst = f"worst {max(seconds):.3f} s, n = {len(seconds)}"
    return Measure(name=what, unit="s", ours=statistics.median(seconds), note=worst, **target)


if __name__ == "__main__":
    sys.exit(main())

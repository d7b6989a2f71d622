"""What the local engine itself costs: a stage, a cached stage, compiling, and the command's first answer.

    python benchmarks/local_engine.py

Stages are those of tests/pipelines/toy_stages, which do next to nothing; what is measured is everything around them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOYS = Path(__file__).parents[1] / "tests" / "pipelines" / "toy_stages"
sys.path.insert(0, str(TOYS))
os.environ["PYTHONPATH"] = str(TOYS)
REPEATS = 5


def main() -> None:
    from toys import run_toys

    from pipelines.compilers.kubeflow import compile_dag, to_yaml
    from pipelines.configuration import load_settings

    with tempfile.TemporaryDirectory() as folder:
        fresh, cached = [], []
        for number in range(REPEATS):
            runs = Path(folder) / str(number)
            fresh += overheads(run_toys(runs, "fresh"))
            cached += overheads(run_toys(runs, "again"))
    report("overhead of a stage that runs", fresh)
    report("overhead of a cached stage", cached)
    report("compile nightly to YAML", timed(lambda: to_yaml(compile_dag("nightly", load_settings("local")))))
    report(
        "srl-rlvr --help", timed(lambda: subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True))
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


def report(what: str, seconds: list[float]) -> None:
    median, worst = statistics.median(seconds), max(seconds)
    print(f"{what:<32} median {median:.3f} s, worst {worst:.3f} s, n = {len(seconds)}")


if __name__ == "__main__":
    main()

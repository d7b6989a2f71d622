"""What generation costs beside its teacher: 2,000 scenarios, a server that answers in 100 ms, 32 requests in flight.

    python -m benchmarks.collaboration.orchestration [--scenarios 2000] [--in-flight 32] [--latency-ms 100] [--out FILE]

The server is a process of its own. The ideal is scenarios x latency / in-flight; the CPU is this process's, from the first
request to the sealed artifact, imports and the drawing of scenarios apart. Fails above 1.25 x the ideal or 8 ms of CPU a
trajectory. `--repeat` runs again over the same record, where every answer is read from disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measures import Measure, publish
from components.entrypoints.execution import Request, execute
from components.shared.collaboration import endpoint  # noqa: F401  (imports are not what is measured)
from components.shared.collaboration.orchestrator import Orchestrator
from components.trajectory_generation import run  # noqa: F401
from components.trajectory_generation.spec import SPEC

PROJECT = Path(__file__).resolve().parents[2]
STAND_IN = PROJECT / "tests/components/shared/collaboration/teacher_stand_in.py"
MAX_RATIO, MAX_CPU_MS = 1.25, 8.0
VALIDATION = 1


def measure(port: int, folder: Path, scenarios: int, in_flight: int) -> dict[str, float]:
    """Wall and CPU seconds of the orchestrator's part of the stage."""
    measured: dict[str, float] = {}
    generate = Orchestrator.generate

    async def timed(self, taught):
        wall, cpu = time.perf_counter(), time.process_time()
        results = await generate(self, taught)
        measured.update(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu, answered=len(results))
        return results

    Orchestrator.generate = timed
    try:
        teacher = {"kind": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "model": "m", "key_variable": None}
        counts = {"train": scenarios - VALIDATION, "validation": VALIDATION, "test": 1}
        config = {"counts": counts, "teacher": {**teacher, "concurrency": in_flight}}
        outputs = {"trajectories": folder / "trajectories", "report": folder / "report"}
        report = execute(Request(spec=SPEC, config=config, inputs={}, outputs=outputs))
    finally:
        Orchestrator.generate = generate
    return {**measured, "acceptance": report.metrics["acceptance"], "requests": report.metrics["requests"]}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--scenarios", type=int, default=2000)
    p.add_argument("--in-flight", type=int, default=32)
    p.add_argument("--latency-ms", type=float, default=100)
    p.add_argument("--repeat", action="store_true")
    p.add_argument("--out", type=Path)
    arguments = p.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    size = ["--train", str(arguments.scenarios - VALIDATION), "--latency-ms", str(arguments.latency_ms)]
    server = subprocess.Popen([sys.executable, STAND_IN, *size], env=environment, stdout=subprocess.PIPE, text=True)
    rows = {}
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as name:
            os.environ["SRL_RLVR_REQUEST_CACHE"] = str(Path(name) / "requests.sqlite")
            for kind in ["fresh", "replayed"][: 1 + arguments.repeat]:
                rows[kind] = measure(port, Path(name) / kind, arguments.scenarios, arguments.in_flight)
    finally:
        server.terminate()
        server.wait(timeout=20)
    ideal = arguments.scenarios * arguments.latency_ms / 1000 / arguments.in_flight
    ratio, cpu_ms = rows["fresh"]["wall_s"] / ideal, 1000 * rows["fresh"]["cpu_s"] / arguments.scenarios
    result = {"ideal_s": ideal, "ratio": ratio, "cpu_ms_per_trajectory": cpu_ms, **rows}
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return publish(
        Measure(name=f"{arguments.scenarios} scenarios, time over the ideal", unit="", ours=ratio, at_most=MAX_RATIO),
        Measure(name="CPU a trajectory", unit="ms", ours=cpu_ms, at_most=MAX_CPU_MS),
    )


if __name__ == "__main__":
    sys.exit(main())

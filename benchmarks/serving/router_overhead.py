"""What the router adds to a request at 200 requests a second, and what it takes of a core.

    python -m benchmarks.serving.router_overhead [--rate 200] [--seconds 20] [--stream] [--out FILE]

Three stand-in servers of vLLM's API and the router run as processes of their own on loopback; this process sends requests
open-loop (at their time, whether or not others are answered), in turn straight to a server and through the router, so that
a busy machine favours neither. A stream's latency is that of its first piece. The overhead of a quantile is the router's
less the direct one's; `strict` takes the direct median from the router's quantile, so that not even the load generator's own
jitter is given away. Fails above 5 ms at the median or 20 ms at the 99th percentile: run it alone.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import uvloop
import yaml

from benchmarks.measures import Measure, publish
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, SelectionTable
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.complexity import calibrate
from components.shared.storage.artifacts import seal

PROJECT = Path(__file__).resolve().parents[2]
STAND_IN = PROJECT / "tests/components/shared/serving/vllm_stand_in.py"
SERVE = (
    "import sys; from pathlib import Path; from components.shared.serving.serve import serve_router; "
    "serve_router(Path(sys.argv[1]), '127.0.0.1', int(sys.argv[2]))"
)
KEY = "benchmark-key-0123456789"
FIRST_MS = 20
"""Service time of the stand-in servers."""
PROMPTS = ["say when the bell rings", "why must nobody cross the ford unless 3 of 4 beacons burn? explain"]
MAX_P50_MS, MAX_P99_MS = 5.0, 20.0
ROUNDS = 4


@contextlib.contextmanager
def process(*command: str, **options) -> Iterator[subprocess.Popen]:
    """A process that ends with the block."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "SRL_RLVR_ROUTER_KEY": KEY}
    running = subprocess.Popen([sys.executable, *command], env=environment, text=True, **options)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(timeout=20)


def configure(folder: Path, ports: dict[Tier, int]) -> Path:
    """Base policy, selection table and router.yaml in `folder`."""
    base = folder / "base"
    base.mkdir()
    (base / "tokenizer.json").write_text("{}")
    seal(base, ArtifactKind.POLICY)
    texts = [f"say the bell {i}" for i in range(20)] + [f"why must {i} not explain if {i}?" for i in range(20)]
    benchmarks = [
        Benchmark(
            model_type="npc_dialogue",
            tier=tier,
            trainer="npc_dialogue",
            base_model=str(tier),
            policy="0" * 64,
            quality=0.8,
            quality_low=0.8,
            samples=100,
            quality_by_complexity=(0.8, 0.6 + 0.1 * place),
            usd_per_million_input_tokens=0.1 * 4**place,
            usd_per_million_output_tokens=0.4 * 4**place,
            first_token_ms=20.0,
            token_ms=5.0,
            completion_tokens=16.0,
        )
        for place, tier in enumerate((Tier.GOLD, Tier.SILVER, Tier.BRONZE))
    ]
    calibration = calibrate("npc_dialogue", texts, [False] * 20 + [True] * 20)
    table = SelectionTable(benchmarks=tuple(benchmarks), calibrations=(calibration,), accepted_by="benchmark")
    (folder / "selection.json").write_text(table.model_dump_json())
    tiers = {
        str(tier): {"kind": "vllm", "url": f"http://127.0.0.1:{port}", "base": str(base), "model": str(tier)}
        for tier, port in ports.items()
    }
    config = {
        "tiers": tiers,
        "selection": str(folder / "selection.json"),
        "state": str(folder / "state"),
        "limits": {"requests_per_minute": 1_000_000},
        "choice": {"max_hourly_usd": 1000.0},
    }
    (folder / "router.yaml").write_text(yaml.safe_dump(config))
    return folder / "router.yaml"


async def load(url: str, model: str, rate: float, seconds: float, stream: bool) -> np.ndarray:
    """Latencies in ms of requests at Poisson times, of a stream's first piece. Raises where one fails."""
    rng, latencies = random.Random(0), []
    timeout = aiohttp.ClientTimeout(total=10)
    headers = {"Authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:

        async def one(number: int) -> None:
            turns = [{"role": "user", "content": PROMPTS[number % 2]}]
            body = {"model": model, "messages": turns, "max_tokens": 16, "stream": stream, "user": f"s{number % 50}"}
            started = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                first = await response.content.readany()
                begun_ms = 1000 * (time.perf_counter() - started)
                text = first + await response.read()
                if response.status != 200 or (stream and not text.rstrip().endswith(b"[DONE]")):
                    raise RuntimeError(f"{response.status}: {text[-200:]!r}")
            latencies.append(begun_ms if stream else 1000 * (time.perf_counter() - started))

        tasks, due, begun = [], 0.0, time.perf_counter()
        while due < seconds:
            await asyncio.sleep(max(0.0, due - (time.perf_counter() - begun)))
            tasks.append(asyncio.create_task(one(len(tasks))))
            due += rng.expovariate(rate)
        await asyncio.gather(*tasks)
    return np.array(latencies)


async def ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(400):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{url} does not come up")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(rate: float, seconds: float, stream: bool) -> dict[str, float]:
    """Run everything and compare."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {}
        for tier in Tier:
            command = (str(STAND_IN), "--model", str(tier), "--first-ms", str(FIRST_MS))
            server = stack.enter_context(process(*command, stdout=subprocess.PIPE))
            ports[tier] = int(server.stdout.readline())
        config, port = configure(folder, ports), random.randint(20000, 50000)
        router = stack.enter_context(process("-c", SERVE, str(config), str(port), stdout=subprocess.DEVNULL))
        url, direct_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ports[Tier.GOLD]}"
        uvloop.run(ready(url))
        uvloop.run(load(url, "npc_dialogue", rate, 2.0, stream))  # warm connections and code
        before, found = cpu_seconds(router.pid), {"direct": [], "routed": []}
        ways = {"direct": (direct_url, "gold"), "routed": (url, "npc_dialogue")}
        for number in range(ROUNDS):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                found[way].append(uvloop.run(load(*ways[way], rate, seconds / ROUNDS, stream)))
        cpu = cpu_seconds(router.pid) - before
    direct, routed = (np.concatenate(found[way]) for way in ("direct", "routed"))
    quantiles = {q: (np.quantile(routed, q), np.quantile(direct, q)) for q in (0.5, 0.95, 0.99)}
    return {
        "requests": len(routed),
        "direct_p50_ms": float(quantiles[0.5][1]),
        "direct_p99_ms": float(quantiles[0.99][1]),
        "routed_p50_ms": float(quantiles[0.5][0]),
        "routed_p99_ms": float(quantiles[0.99][0]),
        "overhead_p50_ms": float(quantiles[0.5][0] - quantiles[0.5][1]),
        "overhead_p95_ms": float(quantiles[0.95][0] - quantiles[0.95][1]),
        "overhead_p99_ms": float(quantiles[0.99][0] - quantiles[0.99][1]),
        "strict_p99_ms": float(quantiles[0.99][0] - quantiles[0.5][1]),
        "router_cores": cpu / seconds,
        "router_ms_cpu_a_request": 1000 * cpu / len(routed),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the router's overhead.")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.rate, options.seconds, options.stream)
    for name, value in found.items():
        print(f"{name:<26}{value:10.2f}")
    what = f"the router's overhead at {options.rate:g} requests/s{', streams' if options.stream else ''}"
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return publish(
        Measure(name=f"{what}, p50", unit="ms", ours=found["overhead_p50_ms"], at_most=MAX_P50_MS),
        Measure(name=f"{what}, p99", unit="ms", ours=found["overhead_p99_ms"], at_most=MAX_P99_MS),
        Measure(name="a routed request, p50", unit="ms", ours=found["routed_p50_ms"]),
        Measure(name="a routed request, p99", unit="ms", ours=found["routed_p99_ms"]),
        Measure(name="the router's CPU a request", unit="ms", ours=found["router_ms_cpu_a_request"]),
    )


if __name__ == "__main__":
    sys.exit(main())

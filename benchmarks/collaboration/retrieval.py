"""The context retriever at 100,000 documents: building its index, a query's latency, and the memory it stays in.

    python -m benchmarks.collaboration.retrieval [--documents 100000] [--queries 1000] [--embeddings] [--out FILE]

Documents are drawn from a Zipf distribution over 50,000 words, about 80 words each, in one JSONL file; each has two facts.
Queries are 12 words, 4 of them out of one document. Building and querying are processes of their own, on two cores; the
query process opens the index that the other left. Fails above 60 s, 10 ms at the 95th percentile, or 1.5 GiB.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measures import Measure, publish
from components.shared.collaboration.context_retriever import ContextRetriever
from components.shared.collaboration.knowledge_base import read_knowledge_base

PROJECT = Path(__file__).resolve().parents[2]
WORDS, LENGTH = 50_000, 80
MAX_BUILD_S, MAX_P95_MS, MAX_GIB = 60.0, 10.0, 1.5


def write_documents(folder: Path, count: int) -> None:
    """The knowledge base, from one seed."""
    rng = np.random.default_rng(0)
    ranks = rng.zipf(1.3, size=count * LENGTH) % WORDS
    with (folder / "documents.jsonl").open("w") as documents, (folder / "facts.jsonl").open("w") as facts:
        for n in range(count):
            text = " ".join(f"w{rank}" for rank in ranks[n * LENGTH : (n + 1) * LENGTH])
            row = {"id": f"d{n}", "title": f"title {n}", "entities": [f"e{n // 2}"], "text": text}
            documents.write(json.dumps(row) + "\n")
            fact = {"id": f"f{n}", "entity": f"e{n}", "attribute": "state", "value": f"v{n % 97}", "valid_from": 0}
            facts.write(json.dumps({**fact, "known_by": ["nell"]}) + "\n")


def step(folder: Path, cache: Path, queries: int, embeddings: bool) -> dict[str, float]:
    """Open the retriever, building what the cache lacks, and ask it."""
    embedder = None
    if embeddings:
        from components.shared.collaboration.embeddings import MiniLM

        embedder = MiniLM()
    started = time.perf_counter()
    base = read_knowledge_base(folder)
    retriever = ContextRetriever(base, cache, embedder)
    opened = time.perf_counter() - started
    rng = random.Random(1)
    seconds = []
    for _ in range(queries):
        some = rng.choice(base.documents).text.split()
        query = " ".join(rng.sample(some, 4) + [f"w{int(rng.paretovariate(0.5)) % WORDS}" for _ in range(8)])
        started = time.perf_counter()
        retriever.retrieve(query, 4)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"open_s": opened, "peak_gib": peak}
    if seconds:
        p50, p95, p99 = (1000 * float(q) for q in np.quantile(seconds, [0.5, 0.95, 0.99]))
        found |= {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    return found


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--documents", type=int, default=100_000)
    p.add_argument("--queries", type=int, default=1000)
    p.add_argument("--embeddings", action="store_true")
    p.add_argument("--out", type=Path)
    p.add_argument("--step", nargs=3, metavar=("FOLDER", "CACHE", "QUERIES"), help=argparse.SUPPRESS)
    arguments = p.parse_args()
    if arguments.step:
        folder, cache, queries = arguments.step
        print(json.dumps(step(Path(folder), Path(cache), int(queries), arguments.embeddings)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "documents", Path(name) / "cache"
        folder.mkdir()
        write_documents(folder, arguments.documents)
        steps = {
            what: apart(folder, cache, queries, arguments.embeddings)
            for what, queries in (("build", 0), ("query", arguments.queries))
        }
    print(json.dumps({"documents": arguments.documents, **steps}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(steps, indent=1) + "\n")
    build, query = steps["build"], steps["query"]
    peak = max(build["peak_gib"], query["peak_gib"])
    count = f"{arguments.documents:,} documents"
    return publish(
        Measure(name=f"building the index of {count}", unit="s", ours=build["open_s"], at_most=MAX_BUILD_S),
        Measure(name=f"a query of {count}, p50", unit="ms", ours=query["p50_ms"]),
        Measure(name=f"a query of {count}, p95", unit="ms", ours=query["p95_ms"], at_most=MAX_P95_MS),
        Measure(name=f"memory with {count}", unit="GiB", ours=peak, at_most=MAX_GIB),
    )


def apart(folder: Path, cache: Path, queries: int, embeddings: bool) -> dict[str, float]:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--step", folder, cache, str(queries), *(["--embeddings"] * embeddings)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


if __name__ == "__main__":
    sys.exit(main())

"""Does training teach, and what does each part add? Arms at equal CPU-seconds on held-out scenarios, to docs/learning.md.

    python -m benchmarks.learning            npc_dialogue, 3 seeds (make learn)
    python -m benchmarks.learning --full     every model type, 5 seeds, both SRL readings, PPO too (make learn-full)
    python -m benchmarks.learning --page     write the page from the results that there are

Every result is a file; what is there is not measured again, so a run that was stopped goes on where it was.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.learning.bench import ROOT, Bench
from benchmarks.learning.page import write_page
from benchmarks.learning.plan import LEARN, LEARN_FULL
from benchmarks.learning.search import search
from components.shared.contracts.errors import program


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description="Measure what training teaches.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--full", action="store_true", help="every model type, 5 seeds, every arm")
    what.add_argument("--page", action="store_true", help="only write the page")
    what.add_argument("--search", action="store_true", help="only try what SFT and RLVR could be told, on validation")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "learning" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "learning", help="trained policies and data sets")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where learning.md goes")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes at a time")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as srl-rlvr run takes it")
    options = parser.parse_args(argv)
    bench = Bench(options.results.resolve(), options.work.resolve(), assignments=tuple(options.set))
    try:
        if options.search:
            search(bench, options.workers)
        elif not options.page:
            bench.run(LEARN_FULL if options.full else LEARN, options.workers)
        print(write_page(options.results, options.docs, bench.identity))
        return 0
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

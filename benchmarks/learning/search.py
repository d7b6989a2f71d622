"""The two choices behind the arms, made on validation scenarios of seeds that no plan holds: the test split is not read.

    python -m benchmarks.learning --search    SFT's learning rate, then RLVR's settings

Like the plan's results, what was measured is a file and is not measured again.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

from pydantic import JsonValue

from benchmarks.learning.bench import Bench
from benchmarks.learning.plan import ARMS, Job
from components.shared.contracts.records import Record, Split, content_id
from components.shared.storage.artifacts import write_text

MODEL_TYPE = "npc_dialogue"
SFT_RATES, SFT_SEED, SFT_SECONDS = (5e-4, 1e-3, 2e-3, 4e-3), 100, 90.0
RLVR_SEEDS = (101, 102, 103)
RLVR_SETTINGS: dict[str, dict[str, JsonValue]] = {
    "GRPO, 5e-4": {"steps": 100, "learning_rate": 5e-4},
    "GRPO, 1e-3": {"steps": 100, "learning_rate": 1e-3},
    "GRPO, 2e-3": {"steps": 100, "learning_rate": 2e-3},
    "PPO, 1e-3": {"steps": 100, "learning_rate": 1e-3, "algorithm": "ppo"},
}
"""What is tried, all with as many rollouts."""


class RLVRTrial(Record):
    """One RLVR on an SRL policy, by the mean score of its validation scenarios, greedily."""

    settings: str
    """A key of RLVR_SETTINGS."""
    seed: int
    start: float
    best: float
    """Of all looks after the first."""
    last: float
    cpu_seconds: float


def search(bench: Bench, workers: int) -> None:
    """Try what was not tried yet, `workers` processes at a time; the results go beside the plan's."""
    sft = bench.results / "search.json"
    if not sft.exists():
        write_text(sft, json.dumps(search_sft(bench), indent=1) + "\n")
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda seed: prepare(bench, seed), RLVR_SEEDS))
        list(pool.map(lambda trial: try_rlvr(bench, *trial), product(RLVR_SETTINGS, RLVR_SEEDS)))


def search_sft(bench: Bench) -> dict[str, float]:
    """Validation scores of SFT by learning rate."""
    job, found = Job(MODEL_TYPE, SFT_SEED, "sft"), {}
    bench.make_dataset(job)
    for rate in SFT_RATES:
        bench.train_sft(job, SFT_SECONDS, rate)
        policy = bench.folder(job) / "policy"
        found[f"{rate:g}"] = bench.scores(job, policy, Split.VALIDATION)["test"]["score"]
        print(f"SFT at {rate:g}: {100 * found[f'{rate:g}']:.1f} points on validation scenarios", flush=True)
    return found


def prepare(bench: Bench, seed: int) -> None:
    """Make the seed's data and SRL policy."""
    job = Job(MODEL_TYPE, seed, "srl")
    bench.make_dataset(job)
    bench.trained(job)


def try_rlvr(bench: Bench, name: str, seed: int) -> None:
    """Train by RLVR with these settings from the seed's SRL policy, unless that was done."""
    job, settings = Job(MODEL_TYPE, seed, "srl_rlvr"), RLVR_SETTINGS[name]
    key = f"{content_id(settings)}-{seed}"
    file = bench.results / "search-rlvr" / f"{key}.json"
    if file.exists():
        return
    config = bench.stage_config(job, "rlvr", settings)
    used, report = bench.run_stage(job, replace(ARMS["srl_rlvr"], settings=settings), config, bench.folder(job) / key)
    looks = report["details"]["validation"]
    scores: dict[str, float] = {look: looks[look]["score"] for look in ("start", "best", "last")}
    trial = RLVRTrial(settings=name, seed=seed, cpu_seconds=used, **scores)
    write_text(file, trial.model_dump_json(indent=1) + "\n")
    print(f"RLVR at {name}, seed {seed}: {100 * trial.start:.1f} -> {100 * trial.best:.1f} points", flush=True)


def read_trials(results: Path) -> list[RLVRTrial]:
    """The trials that there are, in the order of RLVR_SETTINGS and by seed."""
    found = [RLVRTrial.model_validate_json(file.read_bytes()) for file in (results / "search-rlvr").glob("*.json")]
    names = list(RLVR_SETTINGS)
    return sorted((t for t in found if t.settings in names), key=lambda t: (names.index(t.settings), t.seed))

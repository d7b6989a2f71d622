"""Latency and pace of each tier, in process: its base alone, with a LoRA adapter, and the policy that serves beside it.

    python -m benchmarks.serving.tier_latency [--policy gold=DIR ...]

One request at a time, greedy answers to held-out scenarios' prompts, on the clock, interleaved: every prompt goes to each
model in turn, and so finds the machine as busy. The adapter is of rank 16 on every projection and adds zeros, so that its
answers are the base's and only its cost is measured; a whole policy beside the base is what training gives for models of the
local family: what serves on this machine (tiers.py), or --policy. A ratio is of tokens a second, over the base in a server
without adapters, with a bootstrap interval.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peft import LoraConfig, get_peft_model

from benchmarks.measures import Measure, Ratio, publish
from benchmarks.serving.tiers import FAMILY, serving_tiers
from components.shared.contracts.records import Split, Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.adapters import AdapterStore
from components.shared.serving.in_process_server import InProcessServer
from components.shared.serving.srl_model_adapter import ask
from components.shared.storage.artifacts import read_manifest, seal
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.policies import deterministic, load_policy
from pipelines.cli import guarded

MODEL_TYPE = "npc_dialogue"
PROMPTS, MAX_TOKENS, RANK, RESAMPLES = 120, 64, 16, 2000


def write_adapter(base: Path, folder: Path) -> None:
    """A sealed LoRA adapter on `base`, as it is before training."""
    policy = load_policy(base)
    get_peft_model(policy.model, LoraConfig(r=RANK, target_modules="all-linear")).save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    seal(folder, ArtifactKind.POLICY, {"base": read_manifest(base).digest, "rank": RANK})


async def times(models: dict[str, tuple[InProcessServer, str]], prompts: list[str]) -> dict[str, np.ndarray]:
    """For each model (N, 2): seconds of each request, and the tokens it wrote."""
    found: dict[str, list[tuple[float, int]]] = {what: [] for what in models}
    for number, prompt in enumerate([prompts[0], *prompts]):
        for what in list(models)[:: -1 if number % 2 else 1]:
            server, model = models[what]
            began = time.perf_counter()
            answer = await server.generate(model, ask(prompt, MAX_TOKENS))
            if number:
                found[what].append((time.perf_counter() - began, answer.completion_tokens))
    return {what: np.array(rows) for what, rows in found.items()}


def pace_ratio(rows: np.ndarray, base: np.ndarray) -> Ratio:
    """Tokens a second over the base's, prompts resampled together."""
    rng = np.random.default_rng(0)
    picks = [np.arange(len(rows)), *rng.integers(0, len(rows), (RESAMPLES, len(rows)))]
    found = [pace(rows[p]) / pace(base[p]) for p in picks]
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Ratio(mean=found[0], low=low, high=high)


def pace(rows: np.ndarray) -> float:
    return float(rows[:, 1].sum() / rows[:, 0].sum())


def measures(tier: Tier, model: str, rows: np.ndarray, base: np.ndarray | None, note: str) -> list[Measure]:
    p50, p95 = (1000 * float(q) for q in np.quantile(rows[:, 0], [0.5, 0.95]))
    against = {} if base is None else {"peer": pace(base), "peer_name": "base", "ratio": pace_ratio(rows, base)}
    return [
        Measure(name=f"{tier}, {model}, p50", unit="ms", ours=p50),
        Measure(name=f"{tier}, {model}, p95", unit="ms", ours=p95),
        Measure(name=f"{tier}, {model}, pace", unit="tokens/s", ours=pace(rows), note=note, **against),
    ]


def measure(tier: Tier, base: Path, beside: Path, prompts: list[str], scratch: Path) -> list[Measure]:
    write_adapter(base, scratch / tier)
    store = AdapterStore(scratch / "store")
    plain, adapted = InProcessServer(base, "base"), InProcessServer(base, "base")
    adapter = store.add(scratch / tier, MODEL_TYPE, adapted.base)
    policy = store.add(beside, MODEL_TYPE, plain.base)

    async def run() -> dict[str, np.ndarray]:
        await adapted.load(adapter)
        await plain.load(policy)
        models = {"base": (plain, "base"), "adapter": (adapted, adapter.name), "policy": (plain, policy.name)}
        try:
            return await times(models, prompts)
        finally:
            await plain.close()
            await adapted.close()

    found = asyncio.run(run())
    untrained = read_manifest(beside).digest == read_manifest(base).digest
    notes = {"policy": "no policy serves: the base's own weights" if untrained else ""}
    return [
        m
        for what, rows in found.items()
        for m in measures(tier, what, rows, None if what == "base" else found["base"], notes.get(what, ""))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the latency of each local tier.")
    parser.add_argument("--policy", action="append", default=[], metavar="TIER=DIR")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    options = parser.parse_args()
    deterministic(0)
    beside = serving_tiers(MODEL_TYPE, options.policy)
    trainer = create_trainer(MODEL_TYPE, "wrackmere")
    prompts = [s.prompt for s in trainer.scenarios(random.Random(0), options.prompts, [Split.TEST])]
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            m for tier, policy in beside.items() for m in measure(tier, FAMILY / tier, policy, prompts, Path(scratch))
        ]
    return publish(*found)


if __name__ == "__main__":
    sys.exit(guarded(main))

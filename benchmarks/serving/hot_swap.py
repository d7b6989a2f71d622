"""What a swap of adapters takes beside the server's own loading, while requests go on: no one lost, no answer mixed.

    python -m benchmarks.serving.hot_swap [--swaps 100]

A stand-in server of vLLM's API, a process of its own, answers eight clients that never pause, every other one by a stream.
An adapter's answer is a word of its weights' hash, so an answer that mixed two would show it. A swap is what comes beside
the server's loading: warming, three canary prompts and the flip. Run it alone: the clients take what the machine has.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from benchmarks.measures import Measure, publish
from benchmarks.serving.router_overhead import STAND_IN, process
from benchmarks.serving.tier_latency import MODEL_TYPE, write_adapter
from benchmarks.serving.tiers import FAMILY
from components.shared.contracts.records import Tier
from components.shared.serving.adapters import Adapter, AdapterStore, ServedBase
from components.shared.serving.canary_prompts import CanaryPrompt
from components.shared.serving.hot_swap import Aliases, HotSwap
from components.shared.serving.srl_model_adapter import Unavailable, ask
from components.shared.serving.vllm_server import VLLMServer
from pipelines.cli import guarded

ALIAS, TOKENS, CLIENTS, SWAPS = f"{MODEL_TYPE}@gold", 5, 8, 100
MAX_P95_MS = 100.0


@dataclass
class Answers:
    """What the clients got."""

    right: int = 0
    lost: int = 0
    mixed: int = 0
    words: dict[str, str] = field(default_factory=dict)
    """The word of each adapter, by name."""
    over: bool = False

    def take(self, name: str, text: str) -> None:
        same = text == " ".join([self.words[name]] * TOKENS)
        self.right, self.mixed = self.right + same, self.mixed + (not same)


async def client(number: int, swapper: HotSwap, server: VLLMServer, answers: Answers) -> None:
    """Ask one request after the other until all is over."""
    while not answers.over:
        with swapper.aliases.lease(ALIAS) as name:
            try:
                if number % 2:
                    text = (await server.generate(name, ask("the bell", TOKENS))).text
                else:
                    text = "".join([delta.text async for delta in server.stream(name, ask("the bell", TOKENS))])
                answers.take(name, text)
            except Unavailable:
                answers.lost += 1


async def measure(
    port: int, base: ServedBase, adapters: list[Adapter], swaps: int, folder: Path
) -> tuple[np.ndarray, Answers]:
    """Milliseconds of each swap, and what the clients got meanwhile."""
    answers = Answers(words={a.name: word(a) for a in adapters})
    server = VLLMServer(f"http://127.0.0.1:{port}", base)
    swapper = HotSwap(server, Aliases(folder / "aliases.json"), drain_timeout_s=5)
    await swapper.swap(ALIAS, adapters[0], canaries(adapters[0]))
    clients = [asyncio.create_task(client(number, swapper, server, answers)) for number in range(CLIENTS)]
    taken = []
    for turn in range(1, swaps + 1):
        adapter = adapters[turn % len(adapters)]
        taken.append((await swapper.swap(ALIAS, adapter, canaries(adapter))).swap_ms)
    answers.over = True
    await asyncio.gather(*clients)
    await server.close()
    return np.array(taken), answers


def word(adapter: Adapter) -> str:
    """The stand-in's answer for an adapter."""
    return sha256((adapter.folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:8]


def canaries(adapter: Adapter) -> tuple[CanaryPrompt, ...]:
    said = " ".join([word(adapter)] * 3)
    return tuple(CanaryPrompt(prompt=f"bell {i}", completion=said, max_tokens=3) for i in range(3))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure swaps of adapters under load.")
    parser.add_argument("--swaps", type=int, default=SWAPS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, base = Path(scratch), ServedBase.of(FAMILY / Tier.GOLD, "gold", max_rank=16)
        adapters = []
        for seed in range(2):
            torch.manual_seed(seed)
            write_adapter(FAMILY / Tier.GOLD, folder / str(seed))
            adapters.append(AdapterStore(folder / "store").add(folder / str(seed), MODEL_TYPE, base))
        with process(str(STAND_IN), "--model", "gold", "--token-ms", "1", stdout=subprocess.PIPE) as running:
            taken, answers = asyncio.run(measure(int(running.stdout.readline()), base, adapters, options.swaps, folder))
    what, note = f"{options.swaps} swaps under load", f"{answers.right} answers meanwhile"
    p50, p95 = (float(q) for q in np.quantile(taken, [0.5, 0.95]))
    return publish(
        Measure(name=f"{what}, p50", unit="ms", ours=p50, note=note),
        Measure(name=f"{what}, p95", unit="ms", ours=p95, at_most=MAX_P95_MS, note=note),
        Measure(name=f"{what}: requests lost", unit="", ours=answers.lost, at_most=0, note=note),
        Measure(name=f"{what}: answers mixed", unit="", ours=answers.mixed, at_most=0, note=note),
    )


if __name__ == "__main__":
    sys.exit(guarded(main))

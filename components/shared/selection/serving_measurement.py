"""How a policy serves on its machine, measured through the interface that everything serves by.

Two passes over the same prompts at the same number of requests in flight: one that asks for a single token, whose time is
that of the prompt, and one for whole answers. So a back end that cannot stream is measured like one that can.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from statistics import median

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario, Split, Tier
from components.shared.contracts.selection import Measured
from components.shared.serving.srl_model_adapter import Answer, ModelServer, ask
from components.shared.storage.jsonl import read_jsonl


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured, and where."""

    model_type: str
    tier: Tier
    policy: str
    """Digest of the policy's manifest."""
    base_model: str
    parameters: int
    instance: str
    """The machine, as the price list names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """One pass over the prompts."""

    answers: list[Answer]
    seconds: list[float]
    """Of each request."""
    wall: float


async def measure(
    server: ModelServer, model: str, prompts: Sequence[str], subject: Subject, *, max_tokens: int, concurrency: int = 1
) -> Measured:
    """Measure `model` of `server` with `concurrency` requests in flight, after one that warms it up.

    Raises GateError without prompts, or where no answer is longer than a token: its pace could not be told.
    """
    if not prompts:
        raise GateError("no prompts to measure with: pass held-out scenarios' prompts")
    await server.generate(model, ask(prompts[0], max_tokens))
    first = await _run(server, model, prompts, 1, concurrency)
    whole = await _run(server, model, prompts, max_tokens, concurrency)
    paces = [
        max(0.0, full - one) / (answer.completion_tokens - 1)
        for one, full, answer in zip(first.seconds, whole.seconds, whole.answers, strict=True)
        if answer.completion_tokens > 1
    ]
    if not paces:
        raise GateError(f"{model}: no answer to {len(prompts)} prompts is longer than a token: look at what it answers")
    written = sum(answer.completion_tokens for answer in whole.answers)
    return Measured(
        model_type=subject.model_type,
        tier=subject.tier,
        policy=subject.policy,
        base_model=subject.base_model,
        parameters=subject.parameters,
        instance=subject.instance,
        input_tokens_per_s=sum(answer.prompt_tokens for answer in first.answers) / first.wall,
        output_tokens_per_s=written / whole.wall,
        first_token_ms=1000 * median(first.seconds),
        token_ms=1000 * median(paces),
        completion_tokens=written / len(prompts),
        samples=len(prompts),
    )


async def _run(server: ModelServer, model: str, prompts: Sequence[str], max_tokens: int, concurrency: int) -> _Pass:
    slots = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> tuple[Answer, float]:
        async with slots:
            began = time.perf_counter()
            answer = await server.generate(model, ask(prompt, max_tokens))
            return answer, time.perf_counter() - began

    began = time.perf_counter()
    results = await asyncio.gather(*(one(prompt) for prompt in prompts))
    wall = time.perf_counter() - began
    return _Pass(answers=[answer for answer, _ in results], seconds=[seconds for _, seconds in results], wall=wall)


def stored_parameters(policy: Path) -> int:
    """Parameters in a policy's safetensors files, by their headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(policy.glob("*.safetensors")):
        with safe_open(os.fspath(path), framework="numpy") as tensors:
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def held_out_prompts(dataset: Path, most: int) -> list[str]:
    """Prompts of a sealed data set's held-out scenarios, the first `most`. Raises GateError where it has none."""
    found = [s.prompt for s in islice(read_jsonl(dataset / "scenarios" / f"{Split.TEST}.jsonl", Scenario), most)]
    if not found:
        raise GateError(f"{dataset} has no held-out scenarios: generate more of them")
    return found

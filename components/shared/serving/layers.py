"""The game's four layers: 1 foundation (Gold), 2 customisation (Silver), 3 interaction (Silver), 4 coordination (Bronze).

A request names the layers that it needs. Each starts as soon as those that it reads are done, and is handed out as soon as
it is done itself; a layer that is not named never runs, so layer 1 alone waits for nobody. A background layer is never
waited for: the run's ticket fetches its answer later. A tier that fails or is too slow is followed by the layer's fallback.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.contracts.configuration import parse_config
from components.shared.contracts.errors import PipelineError, UsageError, unknown
from components.shared.contracts.records import Record, Tier
from components.shared.serving.dispatch import AllUnavailable, Dispatcher, Hop, Route
from components.shared.serving.srl_model_adapter import ChatRequest, Message
from components.shared.serving.traces import TraceWriter
from components.shared.storage.yaml_files import read_mapping


class Layer(BaseModel):
    """One layer's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    tiers: tuple[Tier, ...] = Field(min_length=1)
    """Its tier, then the fallbacks in order."""
    timeout_ms: float = Field(gt=0)
    """Time that each tier has for a whole answer."""
    max_tokens: int = Field(ge=1)
    """Limit of its answer; a request may ask for less."""
    reads: tuple[int, ...] = ()
    """Layers whose answers it is given, where the request names them."""
    background: bool = False
    """Whether a request goes on without waiting for it."""
    instruction: str | None = None
    """What the layer is to do, as a system turn."""


class LayersConfig(BaseModel):
    """configs/serving/layers.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layers: dict[int, Layer] = Field(min_length=1)
    keep_runs: int = Field(default=1000, ge=1)
    """Runs whose background answers are kept to be fetched, the latest ones."""

    @model_validator(mode="after")
    def _reads_only_earlier_foreground(self) -> "LayersConfig":
        for number, layer in self.layers.items():
            for read in layer.reads:
                if read not in self.layers or read >= number or self.layers[read].background:
                    raise ValueError(f"layer {number} reads {read}: name an earlier layer that is waited for")
        return self


def load_layers(file: Path) -> LayersConfig:
    """The layers in a YAML file."""
    return parse_config(LayersConfig, read_mapping(file), file.name)


class LayerAnswer(Record):
    """What one layer said, and who answered."""

    layer: int
    name: str
    text: str | None
    """None where every tier failed."""
    hops: tuple[Hop, ...]
    """The tiers that were asked, in order; the last one answered where there is a text."""
    waited_ms: float
    """From the request until the layer's start: what the layers that it reads took."""
    latency_ms: float
    fault: str | None = None


class LayerRun:
    """One request on its way through its layers."""

    def __init__(self, tasks: Mapping[int, "asyncio.Task[LayerAnswer]"], background: Collection[int]):
        self.ticket = uuid4().hex
        self._tasks, self._background = tasks, background

    async def answers(self) -> AsyncIterator[LayerAnswer]:
        """The answers of the layers that are waited for, each as it comes."""
        waiting = [task for number, task in self._tasks.items() if number not in self._background]
        for done in asyncio.as_completed(waiting):
            yield await done

    def fetch(self) -> list[LayerAnswer]:
        """Every answer that is there by now, by layer."""
        done = {number: task for number, task in self._tasks.items() if task.done() and not task.cancelled()}
        return [done[number].result() for number in sorted(done)]

    @property
    def pending(self) -> list[int]:
        """Layers without an answer yet."""
        return sorted(number for number, task in self._tasks.items() if not task.done())

    def cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()


class LayerPipeline:
    """Runs requests through the layers."""

    def __init__(
        self,
        config: LayersConfig,
        dispatcher: Dispatcher,
        traces: TraceWriter | None = None,
        trace_lost: Callable[[], None] = lambda: None,
    ):
        """`trace_lost` is called for an answer whose trace could not be written: the answer goes out all the same."""
        for number, layer in config.layers.items():
            for tier in layer.tiers:
                if tier not in dispatcher.backends:
                    raise unknown(f"tier of layer {number}", tier, dispatcher.backends)
        self._config, self._dispatcher, self._traces, self._trace_lost = config, dispatcher, traces, trace_lost
        self._runs: OrderedDict[str, LayerRun] = OrderedDict()

    def start(self, model_type: str, request: ChatRequest, layers: Collection[int]) -> LayerRun:
        """Begin the named layers. Raises UsageError for a layer that is not configured, or for none."""
        if not layers:
            raise UsageError(f"no layer is named: name some of {sorted(self._config.layers)}")
        for number in layers:
            if number not in self._config.layers:
                raise unknown("layer", str(number), map(str, self._config.layers))
        started = time.perf_counter()
        tasks: dict[int, asyncio.Task[LayerAnswer]] = {}
        for number in sorted(layers):
            reads = {read: tasks[read] for read in self._config.layers[number].reads if read in tasks}
            tasks[number] = asyncio.create_task(self._answer(number, model_type, request, reads, started))
        run = LayerRun(tasks, [number for number in tasks if self._config.layers[number].background])
        self._remember(run)
        return run

    def run(self, ticket: str) -> LayerRun:
        """The run of a ticket. Raises UsageError for one that is unknown or no longer kept."""
        if ticket not in self._runs:
            raise UsageError(f"ticket {ticket!r} is unknown: the latest {self._config.keep_runs} runs are kept")
        return self._runs[ticket]

    def close(self) -> None:
        """Give up what still runs."""
        for run in self._runs.values():
            run.cancel()

    def _remember(self, run: LayerRun) -> None:
        self._runs[run.ticket] = run
        while len(self._runs) > self._config.keep_runs:
            self._runs.popitem(last=False)[1].cancel()

    async def _answer(
        self,
        number: int,
        model_type: str,
        request: ChatRequest,
        reads: Mapping[int, "asyncio.Task[LayerAnswer]"],
        arrived: float,
    ) -> LayerAnswer:
        layer = self._config.layers[number]
        heard = [await task for task in reads.values()]
        started = time.perf_counter()
        text: str | None = None
        fault: str | None = None
        hops: tuple[Hop, ...] = ()
        asked = _asked(layer, request, heard)
        try:
            order = [Route(tier=tier, alias=f"{model_type}@{tier}") for tier in layer.tiers]
            served = await self._dispatcher.generate(order, asked, layer.timeout_ms / 1000)
            text, hops = served.value.text, served.hops
        except PipelineError as error:
            fault, hops = str(error), error.hops if isinstance(error, AllUnavailable) else ()
        latency = 1000 * (time.perf_counter() - started)
        if text is not None and self._traces:
            try:
                self._traces.write(
                    model_type=model_type,
                    tier=served.route.tier,
                    policy=served.model,
                    prompt=asked.text,
                    completion=text,
                    latency_ms=latency,
                )
            except OSError:
                self._trace_lost()
        return LayerAnswer(
            layer=number,
            name=layer.name,
            text=text,
            hops=hops,
            waited_ms=1000 * (started - arrived),
            latency_ms=latency,
            fault=fault,
        )


def _asked(layer: Layer, request: ChatRequest, heard: Collection[LayerAnswer]) -> ChatRequest:
    """The request as the layer sees it: its instruction, what earlier layers said, then the conversation."""
    context = [Message(role="system", content=layer.instruction)] if layer.instruction else []
    context += [Message(role="system", content=f"{a.name}: {a.text}") for a in heard if a.text is not None]
    tokens = min(request.max_tokens, layer.max_tokens)
    return replace(request, messages=(*context, *request.messages), max_tokens=tokens)

"""How much memory training takes, in bytes a process, before anything is started.

Counted for decoders of Llama's kind (gated MLP, grouped-query attention, optionally experts) with attention that keeps no
L x L matrix. Per token and layer a backward pass keeps

    6 hidden                two norms: their input, what is normalised, and the result
    2 query + 2 key/value   rotated queries and keys, values, and attention's result
    4 intermediate          the MLP's gate, activation, up projection and product

and beside the layers the last norm and what the layer at work needs. A supervised step over the whole vocabulary keeps
five tensors of its logits' size (log-probabilities, probabilities, their difference to the reference, two gradients).
The count is compared with an allocator's peak in the tests, within 15 %; a GPU adds its context and fragmentation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pydantic import JsonValue

from components.shared.contracts.environment import Strategy

VOCABULARY_COPIES = 5
ATTACHED = ("query", "key", "value", "output")
"""Projections that an adapter is attached to."""
FULL, MASTER = 4, 4
"""Bytes of a number in float32: logits always, and ZeRO-3's copy of half-precision parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What a model's memory follows from."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP, or of one expert."""
    query: int
    """Heads times their width."""
    key_value: int
    """Key heads times their width."""
    vocabulary: int
    tied: bool = False
    """Whether the head is the embedding."""
    experts: int = 1
    experts_per_token: int = 1
    """Experts that a token goes through, shared ones included."""

    @classmethod
    def of(cls, config: Mapping[str, JsonValue]) -> "ModelShape":
        """The shape that a config.json describes."""

        def number(*names: str, default: int) -> int:
            return next((int(str(config[name])) for name in names if config.get(name) is not None), default)

        heads = number("num_attention_heads", default=1)
        hidden = number("hidden_size", default=0)
        head = number("head_dim", default=hidden // heads)
        experts = number("num_experts", "num_local_experts", "n_routed_experts", default=1)
        shared = number("n_shared_experts", default=0)
        return cls(
            layers=number("num_hidden_layers", default=0),
            hidden=hidden,
            intermediate=number("moe_intermediate_size", "intermediate_size", default=0),
            query=heads * head,
            key_value=number("num_key_value_heads", default=heads) * head,
            vocabulary=number("vocab_size", default=0),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=experts + shared,
            experts_per_token=number("num_experts_per_tok", default=1) + shared,
        )

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        attention = 2 * self.hidden * (self.query + self.key_value)
        router = self.hidden * self.experts if self.experts > 1 else 0
        return attention + 3 * self.hidden * self.intermediate * self.experts + router + 2 * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of a LoRA on the four projections of attention."""
        widths = {"query": self.query, "key": self.key_value, "value": self.key_value, "output": self.query}
        return self.layers * sum(rank * (self.hidden + widths[name]) for name in ATTACHED)

    @property
    def kept_per_token(self) -> int:
        """Numbers that one layer keeps of one token for its backward pass."""
        mlp = 4 * self.intermediate * self.experts_per_token
        return 6 * self.hidden + 2 * self.query + 2 * self.key_value + mlp


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """How the model is trained; rows and tokens are one process's."""

    rows: int
    """Rows in one forward and backward pass."""
    prompt_tokens: int
    completion_tokens: int
    bytes_per_number: int = 2
    """Of parameters, gradients and activations: 2 for bfloat16, 4 for float32."""
    strategy: Strategy = Strategy.SINGLE
    processes: int = 1
    lora_rank: int | None = None
    """None: every parameter is trained."""
    checkpoint_activations: bool = False
    """Whether a layer keeps only its input, and is computed again in the backward pass."""
    offload: bool = False
    """Whether shards, gradients and moments lie in the host's memory."""
    reference: bool = True
    """Whether a frozen second model is kept; an adapter's base is its own."""
    undo: bool = False
    """Whether parameters and moments are copied before every update, to be put back."""
    rollouts: int = 0
    """Rows that are generated at once; their cache is there when no gradient is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Bytes a process; `device` and `host` are the peaks."""

    parameters: int
    gathered: int
    """Layers put together from their shards while they are used."""
    reference: int
    gradients: int
    optimizer: int
    undo: int
    activations: int
    vocabulary: int
    kv_cache: int
    offloaded: bool = False

    @property
    def _state(self) -> int:
        return self.parameters + self.reference + self.optimizer + self.undo

    @property
    def device(self) -> int:
        """The highest of generation, the start of the backward pass and the optimiser's step."""
        at_work = max(self.activations + self.vocabulary, self.kv_cache)
        if self.offloaded:
            return self.gathered + at_work
        return self._state + max(self.gathered + at_work, self.gradients)

    @property
    def host(self) -> int:
        return self._state + self.gradients if self.offloaded else 0

    def table(self) -> dict[str, float]:
        """Every part and both peaks in GiB."""
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "offloaded"}
        return {name: value / 2**30 for name, value in {**parts, "device": self.device, "host": self.host}.items()}


def memory_use(shape: ModelShape, setup: TrainingSetup) -> MemoryUse:
    """What each part of training takes on one process."""
    split = setup.processes if setup.strategy in (Strategy.FSDP, Strategy.DEEPSPEED) else 1
    size = setup.bytes_per_number
    adapter = 0 if setup.lora_rank is None else shape.adapter_parameters(setup.lora_rank)
    trained = shape.parameters if setup.lora_rank is None else adapter
    parameters = math.ceil((shape.parameters + adapter) * size / split)
    moments = moment_bytes(setup)
    needs_reference = setup.reference and setup.lora_rank is None
    return MemoryUse(
        parameters=parameters,
        gathered=gathered_bytes(shape, size) if split > 1 else 0,
        reference=parameters if needs_reference else 0,
        gradients=math.ceil(trained * size / split),
        optimizer=math.ceil(trained * moments / split),
        undo=math.ceil(trained * (size + moments) / split) if setup.undo else 0,
        activations=activation_bytes(shape, setup),
        vocabulary=VOCABULARY_COPIES * setup.rows * setup.completion_tokens * shape.vocabulary * FULL,
        kv_cache=kv_cache_bytes(shape, setup),
        offloaded=setup.offload,
    )


def moment_bytes(setup: TrainingSetup) -> int:
    """Adam's bytes for a parameter: two moments in its own type, or in float32 with a float32 copy under ZeRO-3."""
    if setup.strategy == Strategy.DEEPSPEED and setup.bytes_per_number < FULL:
        return 2 * FULL + MASTER
    return 2 * setup.bytes_per_number


def gathered_bytes(shape: ModelShape, size: int) -> int:
    """The layer at work, the one that is fetched meanwhile, and the root's embedding."""
    return (2 * shape.layer_parameters + shape.vocabulary * shape.hidden) * size


def activation_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """What the backward pass needs of the forward pass."""
    tokens = setup.rows * (setup.prompt_tokens + setup.completion_tokens - 1)
    beside = 3 * shape.hidden + 2 * shape.intermediate * shape.experts_per_token
    if setup.checkpoint_activations:
        kept = shape.layers * shape.hidden + shape.kept_per_token
    else:
        kept = shape.layers * shape.kept_per_token
    return tokens * (kept + beside) * setup.bytes_per_number


def kv_cache_bytes(shape: ModelShape, setup: TrainingSetup) -> int:
    """Keys and values of every token of the rows that are generated at once."""
    tokens = setup.rollouts * (setup.prompt_tokens + setup.completion_tokens)
    return 2 * shape.layers * shape.key_value * tokens * setup.bytes_per_number

"""The memory model against what an allocator really hands out."""

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2Config

from components.shared.contracts.environment import Strategy
from components.shared.training.distributed.memory import ModelShape, TrainingSetup, memory_use
from components.shared.training.divergence import full_kl
from components.shared.training.supervised import Batch, chosen, completion_logprobs

GIB = 2**30
LLAMA_8B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def small(**changes):
    base = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaConfig(**{**base, "vocab_size": 64, "tie_word_embeddings": True, **changes})


def measured_peak(model, rows, prompt, completion):
    """Bytes at the peak of a supervised update with KL, in the steady state, by torch's own allocation events."""
    vocabulary = model.config.vocab_size
    optimizer = torch.optim.AdamW(model.parameters())
    ids_BL = torch.randint(0, vocabulary, (rows, prompt + completion))
    ones_BC = torch.ones(rows, completion)
    batch = Batch(
        ids_BL=ids_BL,
        attention_BL=torch.ones_like(ids_BL),
        targets_BC=ids_BL[:, prompt:],
        weights_BC=ones_BC,
        mask_BC=ones_BC,
    )
    reference_BCV = torch.randn(rows, completion, vocabulary).log_softmax(-1)

    def update():
        logprobs_BCV = completion_logprobs(model, batch)
        loss = -chosen(logprobs_BCV, batch).mean() + 0.1 * full_kl(logprobs_BCV, reference_BCV).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    update()
    optimizer.zero_grad()
    gc.collect()
    held = 3 * 4 * sum(p.numel() for p in model.parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        update()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return held + peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "rows", "prompt", "completion", "checkpointing"),
    [
        pytest.param(small(), 16, 100, 8, False, id="activations"),
        pytest.param(small(num_hidden_layers=8, num_key_value_heads=2), 8, 100, 8, False, id="grouped queries"),
        pytest.param(small(intermediate_size=256), 16, 100, 8, False, id="wide mlp"),
        pytest.param(small(num_hidden_layers=16), 16, 100, 8, True, id="checkpointed activations"),
        pytest.param(small(vocab_size=8000, num_hidden_layers=2), 16, 8, 64, False, id="vocabulary"),
        pytest.param(small(hidden_size=256, intermediate_size=512), 1, 8, 8, False, id="gradients and moments"),
    ],
)
def test_the_model_is_within_15_percent_of_the_allocator(config, rows, prompt, completion, checkpointing):
    model = AutoModelForCausalLM.from_config(config)
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    setup = TrainingSetup(
        rows=rows,
        prompt_tokens=prompt,
        completion_tokens=completion,
        bytes_per_number=4,
        checkpoint_activations=checkpointing,
        reference=False,
    )
    predicted = memory_use(ModelShape.of(config.to_dict()), setup).device
    assert predicted == pytest.approx(measured_peak(model, rows, prompt, completion), rel=0.15)


@pytest.mark.parametrize(
    "config",
    [
        small(),
        small(tie_word_embeddings=False, num_key_value_heads=2, head_dim=24),
        Qwen2Config(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
            num_key_value_heads=2, layer_types=None,
        ),
        MixtralConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
            num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
        ),
    ],
    ids=["llama", "untied", "qwen2", "mixtral"],
)  # fmt: skip
def test_parameters_are_counted_from_the_configuration(config):
    counted = ModelShape.of(config.to_dict()).parameters
    assert counted == pytest.approx(
        sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()), rel=0.01
    )


def test_an_8b_model_needs_what_is_known_of_it():
    shape = ModelShape.of(LLAMA_8B)
    assert shape.parameters == pytest.approx(8.03e9, rel=0.001)
    setup = TrainingSetup(rows=1, prompt_tokens=1024, completion_tokens=256, checkpoint_activations=True)
    alone = memory_use(shape, setup)
    assert alone.parameters == alone.gradients == alone.reference == 2 * shape.parameters
    assert alone.device == pytest.approx(5 * 2 * shape.parameters, rel=0.01), "two models, gradients and two moments"


def test_splitting_lora_offload_and_checkpoints_each_save_what_they_should():
    shape = ModelShape.of(LLAMA_8B)
    base = {"rows": 1, "prompt_tokens": 1024, "completion_tokens": 256}
    alone = memory_use(shape, TrainingSetup(**base))
    split = memory_use(shape, TrainingSetup(**base, strategy=Strategy.FSDP, processes=8))
    zero3 = memory_use(shape, TrainingSetup(**base, strategy=Strategy.DEEPSPEED, processes=8))
    copied = memory_use(shape, TrainingSetup(**base, strategy=Strategy.DDP, processes=8))
    lora = memory_use(shape, TrainingSetup(**base, lora_rank=64))
    offloaded = memory_use(shape, TrainingSetup(**base, strategy=Strategy.FSDP, processes=8, offload=True))
    assert split.parameters * 8 == pytest.approx(alone.parameters) and copied == alone
    assert zero3.optimizer == pytest.approx(3 * split.optimizer), "float32 moments and a float32 copy"
    assert lora.optimizer < 0.02 * alone.optimizer and lora.reference == 0, "an adapter's base is its reference"
    assert offloaded.device < split.device and offloaded.host > 0 == split.host
    kept = memory_use(shape, TrainingSetup(**base, checkpoint_activations=True)).activations
    assert kept < 0.15 * alone.activations
    assert memory_use(shape, TrainingSetup(**base, undo=True)).undo == alone.parameters + alone.optimizer
    cache = memory_use(shape, TrainingSetup(**base, rollouts=64)).kv_cache
    assert cache == 2 * 32 * 1024 * 1280 * 64 * 2


def test_a_671b_mixture_does_not_fit_four_nodes_without_an_adapter():
    shape = ModelShape(
        layers=61, hidden=7168, intermediate=2048, query=16384, key_value=576, vocabulary=129280, experts=257,
        experts_per_token=9,
    )  # fmt: skip
    base = {"rows": 1, "prompt_tokens": 1024, "completion_tokens": 256, "strategy": Strategy.DEEPSPEED, "processes": 32}
    assert shape.parameters == pytest.approx(6.9e11, rel=0.05)
    assert memory_use(shape, TrainingSetup(**base, checkpoint_activations=True)).device > 80 * GIB
    lora = memory_use(shape, TrainingSetup(**base, checkpoint_activations=True, lora_rank=64))
    assert lora.device < 96 * GIB and lora.table()["parameters"] > 35

"""Packed rows are padded rows without the padding: the same log-probabilities, losses and gradients."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from components.shared.training.divergence import full_kl
from components.shared.training.packing import by_row, lay_out, packing, packs, token_logprobs
from components.shared.training.supervised import Example

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}


def rows(*lengths: tuple[int, int]) -> list[Example]:
    """Random rows of so many prompt and completion tokens, each token with a weight of its own."""
    rng = random.Random(0)
    return [
        Example(
            prompt_ids=[rng.randrange(3, 40) for _ in range(prompt)],
            completion_ids=[rng.randrange(3, 40) for _ in range(completion)],
            weights=[rng.choice([0.0, 0.5, 2.0]) for _ in range(completion)],
        )
        for prompt, completion in lengths
    ]


UNEQUAL = rows((5, 3), (1, 1), (4, 4), (12, 9), (2, 6), (5, 3), (1, 20))


@pytest.fixture(params=[4, 2, 1], ids=["all heads", "grouped", "one key head"])
def model(request):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=request.param))


def loss_and_gradients(model, examples, reference, packed):
    """The weighted likelihood and the KL to a reference, as SRL has them."""
    with packing(model, packed), packing(reference, packed):
        tokens = lay_out(examples, 0, CPU, packed=packed)
        logprobs_TV = token_logprobs(model, tokens)
        logp_T = logprobs_TV.gather(-1, tokens.targets_T[:, None]).squeeze(-1)
        with torch.no_grad():
            reference_TV = token_logprobs(reference, tokens)
        kl_T = full_kl(logprobs_TV, reference_TV)
        loss = (-tokens.weights_T * logp_T + 0.3 * kl_T).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss, [torch.cat(by_row(values, examples, tokens.order)) for values in (logp_T, kl_T)], gradients


def test_loss_weights_kl_and_gradients_are_those_of_padded_rows(model):
    torch.manual_seed(1)
    reference = LlamaForCausalLM(model.config).eval()
    (loss, values, gradients), (loss_, values_, gradients_) = (
        loss_and_gradients(model, UNEQUAL, reference, packed) for packed in (True, False)
    )
    torch.testing.assert_close(loss, loss_, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(values, values_, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gradients, gradients_, atol=2e-6, rtol=1e-5)


def test_a_row_sees_nothing_of_the_others(model):
    with packing(model), torch.no_grad():
        alone = [token_logprobs(model, lay_out([row], 0, CPU, packed=True)) for row in UNEQUAL]
        tokens = lay_out(UNEQUAL, 0, CPU, packed=True)
        together = by_row(token_logprobs(model, tokens), UNEQUAL, tokens.order)
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)


def test_dropout_reaches_packed_attention(model):
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tokens = lay_out(UNEQUAL, 0, CPU, packed=True)
    with packing(model), torch.no_grad():
        assert not torch.equal(token_logprobs(model, tokens), token_logprobs(model, tokens))


def test_what_is_not_packed_is_as_before(model):
    ids = torch.tensor([UNEQUAL[3].prompt_ids])
    before = model.generate(ids, max_new_tokens=8, do_sample=False)
    with packing(model):
        assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False), before)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_is_tried_before_it_is_trusted(model):
    assert packs(model.eval(), UNEQUAL, 0, CPU)
    torch.manual_seed(0)
    window = MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=4, sliding_window=8)).eval()
    assert packs(window, rows((2, 3), (3, 3)), 0, CPU), "no row is longer than the window"
    assert not packs(window, UNEQUAL, 0, CPU)
    model.set_attn_implementation("eager")
    assert not packs(model, UNEQUAL, 0, CPU)

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.training.grpo.completion_scoring import (
    ScoreRequest,
    distinct_rows,
    install,
    uninstall,
)

PAD = 0


def llama(*, tied: bool, key_value_heads: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=key_value_heads,
            tie_word_embeddings=tied,
            initializer_range=0.3,
            pad_token_id=PAD,
        )
    )


def groups(prompts: list[int], size: int, completions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups of ragged prompts and completions, in TRL's layout."""
    torch.manual_seed(2)
    longest = max(prompts)
    ids, attention = [], []
    for length in prompts:
        prompt = torch.randint(1, 31, (length,)).tolist()
        for i in range(size):
            used = 1 + (i * 2) % completions
            completion = torch.randint(1, 31, (used,)).tolist()
            ids.append([PAD] * (longest - length) + prompt + completion + [PAD] * (completions - used))
            attention.append([0] * (longest - length) + [1] * (length + used) + [0] * (completions - used))
    return torch.tensor(ids), torch.tensor(attention)


def plain(model: LlamaForCausalLM, ids: torch.Tensor, attention: torch.Tensor, completion: int, temperature: float):
    """Log-probabilities and entropies the long way."""
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, -completion - 1 : -1]
    logprobs = (logits / temperature).log_softmax(-1)
    chosen = logprobs.gather(-1, ids[:, -completion:, None]).squeeze(-1)
    return chosen, -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("completions", [1, 7])
@pytest.mark.parametrize(("tied", "key_value_heads"), [(True, 4), (False, 2)])
def test_scores_and_gradients_are_those_of_the_whole_rows(shared, completions, tied, key_value_heads):
    ids, attention = groups([5, 3, 9], 4, completions)
    keep = attention[:, -completions:].bool()
    ours, theirs = llama(tied=tied, key_value_heads=key_value_heads), llama(tied=tied, key_value_heads=key_value_heads)
    install(ours)
    request = ScoreRequest(completion_tokens=completions, temperature=0.7, share_prompts=shared, entropies=True)
    found = ours(input_ids=ids, attention_mask=attention, scores=request)
    expected = plain(theirs, ids, attention, completions, 0.7)
    weights = torch.linspace(-1, 2, int(keep.sum()))
    for model, (logprobs, entropies) in ((ours, found[:2]), (theirs, expected)):
        (weights * logprobs[keep] + weights.flip(0) * entropies[keep]).mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(found.logprobs_BC[keep], expected[0][keep], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropies_BC[keep], expected[1][keep], atol=1e-5, rtol=0)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=0, msg=name)
    assert (found.logprobs_BC[~keep] == 0).all()


def test_a_shared_prompt_goes_through_the_model_once():
    model = llama(tied=True, key_value_heads=4)
    tokens = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: tokens.append(args[0].numel()))
    install(model)
    ids, attention = groups([50, 50], 8, 4)
    for shared, expected in ((True, 2 * 50 + 16 * 3), (False, 16 * 53)):
        tokens.clear()
        request = ScoreRequest(completion_tokens=4, temperature=1.0, share_prompts=shared)
        model(input_ids=ids, attention_mask=attention, scores=request)
        assert sum(tokens) == expected


def test_prompts_that_nobody_shares_are_not_split():
    model = llama(tied=True, key_value_heads=4)
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    install(model)
    ids, attention = groups([4, 5, 6], 1, 3)
    model(
        input_ids=ids,
        attention_mask=attention,
        scores=ScoreRequest(completion_tokens=3, temperature=1.0, share_prompts=True),
    )
    assert len(calls) == 1


def test_the_forward_pass_is_unchanged_without_a_request_and_after_uninstalling():
    model = llama(tied=True, key_value_heads=4)
    ids, attention = groups([4], 2, 3)
    before = model(input_ids=ids, attention_mask=attention).logits
    install(model)
    assert torch.equal(model(input_ids=ids, attention_mask=attention).logits, before)
    uninstall(model)
    assert "forward" not in vars(model)
    assert torch.equal(copy.deepcopy(model)(input_ids=ids, attention_mask=attention).logits, before)


def test_values_are_read_off_the_same_hidden_states_and_can_leave_the_trunk_alone():
    model = llama(tied=True, key_value_heads=4)
    model.value_head = torch.nn.Linear(16, 1)
    install(model)
    ids, attention = groups([4, 6], 4, 5)
    hidden = model.model(input_ids=ids, attention_mask=attention).last_hidden_state[:, -6:-1]
    expected = model.value_head(hidden).squeeze(-1) * attention[:, -5:]
    for detach in (False, True):
        request = ScoreRequest(completion_tokens=5, temperature=1.0, share_prompts=True, detach_values=detach)
        model.zero_grad()
        values = model(input_ids=ids, attention_mask=attention, scores=request).values_BC
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
        values.sum().backward()
        assert (model.model.layers[0].mlp.up_proj.weight.grad is None) == detach
        assert model.value_head.weight.grad is not None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12), st.data())
def test_distinct_rows_give_every_row_back(rows, data):
    ids = torch.tensor(rows)
    paddings = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    attention = torch.tensor([[0] * n + [1] * (3 - n) for n in paddings])
    first, inverse = distinct_rows(ids, attention)
    seen = [tuple(row[n:]) for row, n in zip(rows, paddings, strict=True)]
    assert len(first) == len(set(seen))
    assert [seen[first[i]] for i in inverse] == seen
    assert all(seen.index(seen[i]) == i for i in first)

import torch
from torch.nn import functional

from components.shared.training.supervised import chosen, collate, completion_logprobs, example


def test_tokens_carry_the_weight_of_the_piece_they_end_in(tiny_policy):
    row = example(tiny_policy, "the bell", ["rings ;", "at dawn"], [0.5, 2.0])
    words = tiny_policy.tokenizer.convert_ids_to_tokens(row.completion_ids)
    assert list(zip(words, row.weights, strict=True)) == [
        ("rings", 0.5),
        (";", 0.5),
        ("at", 2.0),
        ("dawn", 2.0),
        ("<eos>", 2.0),
    ]


def test_padding_changes_no_log_probability(tiny_policy):
    """A row in a batch of unequal rows scores what it scores alone, computed the plain way."""
    rows = [
        example(tiny_policy, "the bell", ["rings at dawn"], [1.0]),
        example(tiny_policy, "say yes ; say no =", ["no"], [1.0]),
    ]
    tiny_policy.model.eval()
    batch = collate(rows, pad_id=0)
    together = chosen(completion_logprobs(tiny_policy.model, batch), batch)
    for i, row in enumerate(rows):
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        logprobs = functional.log_softmax(tiny_policy.model(input_ids=ids).logits, -1)[0, len(row.prompt_ids) - 1 : -1]
        alone = logprobs.gather(-1, torch.tensor(row.completion_ids)[:, None])[:, 0]
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-6, rtol=0)
        assert batch.mask_BC[i].sum() == len(row.completion_ids)


def test_temperature_flattens_the_distribution(tiny_policy):
    batch = collate([example(tiny_policy, "the bell", ["rings"], [1.0])], pad_id=0)
    cold, hot = (completion_logprobs(tiny_policy.model.eval(), batch, t) for t in (0.5, 4.0))
    entropy = lambda logp: -(logp.exp() * logp).sum(-1)  # noqa: E731
    assert (entropy(hot) > entropy(cold)).all()

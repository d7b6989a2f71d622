import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from components.shared.training.grpo.sampler import ROOM, RoomyLayer, roomy, sample

END = 1


def theirs(policy, prompts, seed, **options):
    """transformers' own sampling of the same prompts, cut after the end token."""
    batch = policy.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    torch.manual_seed(seed)
    ids = policy.model.generate(**batch, max_new_tokens=8, top_p=1.0, pad_token_id=0, eos_token_id=END, **options)
    rows = ids[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def ours(policy, prompts, seed, temperature=1.0, max_tokens=8):
    torch.manual_seed(seed)
    return sample(policy.model, prompts, max_tokens=max_tokens, temperature=temperature, end_ids=[END], pad_id=0)


PROMPTS = [[3, 4], [3, 4], [5, 6, 7, 8], [5, 6, 7, 8], [9], [9]]


def test_cold_samples_are_transformers_greedy_answers(tiny_policy):
    assert ours(tiny_policy, PROMPTS, 0, temperature=1e-6) == theirs(tiny_policy, PROMPTS, 0, do_sample=False)


def test_samples_follow_the_policy_s_distribution(tiny_policy):
    """First tokens of one prompt by frequency, and again after rows have left the batch."""
    prompt, count = [3, 4, 5], 4000
    rows = ours(tiny_policy, [prompt] * count, 0, max_tokens=2)
    with torch.no_grad():
        expected = tiny_policy.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second = tiny_policy.model(torch.tensor([[*prompt, 6]])).logits[0, -1].softmax(-1)
    first = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=13) / count
    torch.testing.assert_close(first, expected, atol=0.03, rtol=0)
    after_six = torch.bincount(torch.tensor([row[1] for row in rows if row[0] == 6]), minlength=13).float()
    torch.testing.assert_close(after_six / after_six.sum(), second, atol=0.1, rtol=0)


def test_rows_that_end_early_do_not_change_the_others(tiny_policy):
    """Most rows end at once and are taken out of the batch; the rest answer as they do alone."""
    with torch.no_grad():
        tiny_policy.model.model.embed_tokens.weight[END] *= 8
    prompts = [[3 + i % 10, 3 + i % 7] for i in range(24)]
    together = ours(tiny_policy, prompts, 0, temperature=1e-6)
    alone = [ours(tiny_policy, [prompt], 0, temperature=1e-6)[0] for prompt in prompts]
    assert len({len(row) for row in together}) > 1
    assert together == alone


def test_an_answer_ends_with_its_end_token_or_at_the_limit_and_a_seed_repeats_it(tiny_policy):
    rows = ours(tiny_policy, PROMPTS * 20, 3, max_tokens=5)
    assert rows == ours(tiny_policy, PROMPTS * 20, 3, max_tokens=5)
    assert {len(row) for row in rows if END not in row} == {5}
    assert all(END not in row[:-1] for row in rows)


def test_a_cache_that_grows_past_its_room_holds_what_transformers_own_does():
    torch.manual_seed(0)
    plain, grown = DynamicCache(), Cache(layer_class_to_replicate=RoomyLayer)
    for tokens in (5, 1, ROOM, 1, 2 * ROOM, 1):
        keys, values = torch.randn(3, 2, tokens, 4), torch.randn(3, 2, tokens, 4)
        for ours, theirs in zip(grown.update(keys, values, 0), plain.update(keys, values, 0), strict=True):
            assert torch.equal(ours, theirs)
        assert grown.get_seq_length() == plain.get_seq_length()
    kept = roomy(grown, torch.tensor([2, 0]))
    assert torch.equal(kept.layers[0].keys, plain.layers[0].keys[[2, 0]])

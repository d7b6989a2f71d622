import torch

from components.shared.training.rollouts import complete


def test_answers_come_back_in_the_order_of_their_prompts_whatever_the_batches(tiny_policy):
    prompts = ["the bell rings at dawn ;", "say", "say yes ; say no =", "the bell"]
    one_by_one = [complete(tiny_policy, [p], max_tokens=6)[0] for p in prompts]
    assert complete(tiny_policy, prompts, max_tokens=6, batch_size=2) == one_by_one


def test_sampling_is_a_function_of_the_seed_and_greedy_of_nothing(tiny_policy):
    prompts = ["the bell"] * 30
    torch.manual_seed(3)
    first = complete(tiny_policy, prompts, max_tokens=6, temperature=1.0)
    torch.manual_seed(3)
    assert complete(tiny_policy, prompts, max_tokens=6, temperature=1.0) == first
    assert len(set(first)) > 1
    assert len(set(complete(tiny_policy, prompts, max_tokens=6))) == 1

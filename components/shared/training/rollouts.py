"""Completions sampled from a policy, in batches of prompts of like length."""

from collections.abc import Sequence

import torch

from components.shared.training.policies import Policy, encode_prompts


@torch.no_grad()
def complete(
    policy: Policy,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float | None = None,
    batch_size: int = 256,
    in_step: bool = False,
) -> list[str]:
    """One completion for each prompt, in the order given, the end token left off.

    `temperature` none means greedy. Sampling draws from torch's global generator. `in_step` for a model that is split over
    processes, which must run it equally often: each goes on until all have finished, and has as many prompts as any other.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions = [""] * len(prompts)
    policy.model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = encode_prompts(policy, [prompts[i] for i in chosen]).to(policy.model.device)
        sampling = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature}
        ids = policy.model.generate(  # type: ignore[operator]
            **batch,
            max_new_tokens=max_tokens,
            top_k=0,
            top_p=1.0,
            pad_token_id=policy.tokenizer.pad_token_id,
            synced_gpus=in_step,
            **sampling,
        )
        texts = policy.tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            completions[i] = text.strip()
    return completions

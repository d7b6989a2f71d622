import pytest
import torch

from components.shared.training import reference_logprobs
from components.shared.training.distributed.world import World
from components.shared.training.packing import by_row, lay_out, packing
from components.shared.training.supervised import collate, completion_logprobs, example


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("cache_bytes", [2**30, 0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_they_are_the_reference_s_of_the_rows_that_are_asked_for(
    tiny_policy, monkeypatch, cache_bytes, packed, temperature
):
    monkeypatch.setattr(reference_logprobs, "CACHE_BYTES", cache_bytes)
    texts = [("the bell", "rings"), ("say", "yes ; no"), ("at", "dawn at dawn")]
    rows = [example(tiny_policy, prompt, [text], [1.0]) for prompt, text in texts]
    with packing(tiny_policy.model, packed):
        kept = reference_logprobs.ReferenceLogprobs(tiny_policy, rows, World(), packed, temperature)
        asked = [2, 0, 1]
        tokens = lay_out([rows[i] for i in asked], 0, torch.device("cpu"), packed=packed)
        found = by_row(kept.of(asked, tokens), [rows[i] for i in asked], tokens.order)
    for i, logprobs in zip(asked, found, strict=True):
        alone = completion_logprobs(tiny_policy.model, collate([rows[i]], 0), temperature)[0]
        torch.testing.assert_close(logprobs, alone, atol=1e-6, rtol=0)

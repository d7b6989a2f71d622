"""Log-probabilities of completions, with the prompt that a group shares computed once.

A group of G completions has one prompt; the usual forward pass computes it G times and projects the vocabulary at every
position. Here the distinct prompts go through the model once, their keys and values are handed to all completions (with
gradients: a gather forward, a sum backward), and only completion tokens are projected. The idea is PrefixGrouper's
(arXiv 2506.05433); the numbers are those of the whole rows.

It all happens inside `model(..., scores=ScoreRequest(...))`, so that wrappers of the model (DDP, autocast, PEFT) see an
ordinary forward pass.

Axes: B rows, U distinct prompts, P prompt tokens, C completion tokens, L = P + C, H hidden size.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel
from trl.kernels import ChunkedLogProbFunction

VOCABULARY_TILE = 32768
"""Columns of the vocabulary projected at a time, as TRL's own head does."""
WORTH_SHARING = 1.5
"""Rows a distinct prompt from which two passes cost less than one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """What to compute of a batch of prompts (padded on the left) and completions (padded on the right)."""

    completion_tokens: int
    """C: the last columns of the input."""
    temperature: float
    share_prompts: bool
    entropies: bool = False
    detach_values: bool = False
    """Whether the value head's gradient stops at the hidden states."""


class CompletionScores(NamedTuple):
    """Per completion token, 0 where the attention mask is."""

    logprobs_BC: torch.Tensor
    entropies_BC: torch.Tensor | None
    values_BC: torch.Tensor | None
    """Value of the state before the token, where the model has a `value_head`."""


def joined(parts: Sequence[CompletionScores]) -> CompletionScores:
    """The scores of consecutive batches as one."""
    entropies = [p.entropies_BC for p in parts if p.entropies_BC is not None]
    values = [p.values_BC for p in parts if p.values_BC is not None]
    return CompletionScores(
        torch.cat([p.logprobs_BC for p in parts]),
        torch.cat(entropies) if entropies else None,
        torch.cat(values) if values else None,
    )


def install(model: PreTrainedModel) -> None:
    """Teach the model's forward pass the keyword `scores`; without it nothing changes."""
    inner = model.forward

    @functools.wraps(type(model).forward)
    def forward(*args, scores: ScoreRequest | None = None, **kwargs):
        if scores is None:
            return inner(*args, **kwargs)
        return score(model, kwargs["input_ids"], kwargs["attention_mask"], scores)

    model.forward = forward


def uninstall(model: PreTrainedModel) -> None:
    """Give the model its class's own forward pass back: a patched one would follow it into copies."""
    model.__dict__.pop("forward", None)


def score(
    model: PreTrainedModel, ids_BL: torch.Tensor, attention_BL: torch.Tensor, request: ScoreRequest
) -> CompletionScores:
    """The scores of the completions in `ids_BL`."""
    completion = request.completion_tokens
    hidden_BCH = _hidden(model.base_model, ids_BL, attention_BL, completion, request.share_prompts)
    real_BC = attention_BL[:, -completion:].bool()
    head = model.get_output_embeddings()
    logprobs_N, entropies_N = ChunkedLogProbFunction.apply(
        hidden_BCH[real_BC],
        head.weight,
        head.bias,
        ids_BL[:, -completion:][real_BC],
        request.temperature,
        VOCABULARY_TILE,
        getattr(model.config.get_text_config(), "final_logit_softcapping", None),
        1.0,
        ("log_probs", "entropy") if request.entropies else ("log_probs",),
    )[:2]
    return CompletionScores(
        _spread(logprobs_N, real_BC),
        _spread(entropies_N, real_BC) if request.entropies else None,
        _values(model, hidden_BCH, real_BC, request.detach_values),
    )


def _values(
    model: PreTrainedModel, hidden_BCH: torch.Tensor, real_BC: torch.Tensor, detach: bool
) -> torch.Tensor | None:
    head = getattr(model, "value_head", None)
    if head is None:
        return None
    hidden_BCH = hidden_BCH.detach() if detach else hidden_BCH
    return head(hidden_BCH.float()).squeeze(-1) * real_BC


def _spread(values_N: torch.Tensor, real_BC: torch.Tensor) -> torch.Tensor:
    return values_N.new_zeros(real_BC.shape).masked_scatter(real_BC, values_N)


def _hidden(
    trunk: torch.nn.Module, ids_BL: torch.Tensor, attention_BL: torch.Tensor, completion: int, share: bool
) -> torch.Tensor:
    """Hidden states (B, C, H) from which the completion tokens are predicted: each token's predecessor's."""
    prompt = ids_BL.shape[1] - completion
    if share:
        rows_U, inverse_B = distinct_rows(ids_BL[:, :prompt], attention_BL[:, :prompt])
        if len(inverse_B) >= WORTH_SHARING * len(rows_U):
            return _hidden_shared(trunk, ids_BL, attention_BL, prompt, rows_U, inverse_B)
    output = trunk(input_ids=ids_BL[:, :-1], attention_mask=attention_BL[:, :-1], use_cache=False)
    return output.last_hidden_state[:, -completion:]


def _hidden_shared(
    trunk: torch.nn.Module,
    ids_BL: torch.Tensor,
    attention_BL: torch.Tensor,
    prompt: int,
    rows_U: torch.Tensor,
    inverse_B: torch.Tensor,
) -> torch.Tensor:
    prompts = trunk(
        input_ids=ids_BL[rows_U, :prompt],
        attention_mask=attention_BL[rows_U, :prompt],
        past_key_values=DynamicCache(),
        use_cache=True,
    )
    first_B1H = prompts.last_hidden_state[:, -1:].index_select(0, inverse_B)
    length = ids_BL.shape[1]
    if length == prompt + 1:
        return first_B1H
    rest = trunk(
        input_ids=ids_BL[:, prompt:-1],
        attention_mask=attention_BL[:, :-1],
        position_ids=torch.arange(prompt, length - 1, device=ids_BL.device)[None],
        past_key_values=expanded(prompts.past_key_values, inverse_B),
        use_cache=True,
    )
    return torch.cat([first_B1H, rest.last_hidden_state], dim=1)


def distinct_rows(ids_BP: torch.Tensor, attention_BP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first row of each distinct prompt (U,), and for each row which of them it has (B,)."""
    keys_BP = ids_BP.masked_fill(attention_BP == 0, -1)
    keys_UP, inverse_B = torch.unique(keys_BP, dim=0, return_inverse=True)
    positions_B = torch.arange(len(keys_BP), device=keys_BP.device)
    rows_U = positions_B.new_zeros(len(keys_UP)).scatter_reduce(0, inverse_B, positions_B, "amin", include_self=False)
    return rows_U, inverse_B


def expanded(cache: DynamicCache, inverse_B: torch.Tensor) -> DynamicCache:
    """A cache of U prompts as one of B rows; gradients flow through."""
    rows = DynamicCache()
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        rows.update(layer.keys.index_select(0, inverse_B), layer.values.index_select(0, inverse_B), index)
    return rows

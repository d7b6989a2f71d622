"""Supervised rows end to end in one row without padding, each attending to itself alone: the numbers of padded rows.

Everything but attention works token by token, so that only attention has to know where a row ends. Rows lie sorted by
length, and those of one length attend in one call: no token is padded, no mask is made, and torch's fused kernels run.
transformers' own attention for packed rows masks N x N on a CPU, which costs more than the padding did.

Axes: N tokens of all rows, T completion tokens, V vocabulary, D rows of one length, L that length, H heads, K head size.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from components.shared.training.grpo.scoring_check import TOLERANCES, relative_difference
from components.shared.training.policies import Policy
from components.shared.training.supervised import Example, collate

logger = logging.getLogger(__name__)

PACKED = "sdpa_packed"
"""Name of the attention below among transformers' implementations."""
COMPARED = 4
"""Longest and shortest rows that a model is tried with, so many of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Rows as the model takes them, and their completion tokens one after another."""

    inputs: dict[str, Any]
    real_BC: torch.Tensor | None
    """Which of the model's logits are of completion tokens; None where all are."""
    order: list[int]
    """The rows in the order in which their completion tokens lie."""
    targets_T: torch.Tensor
    weights_T: torch.Tensor


def lay_out(rows: Sequence[Example], pad_id: int, device: torch.device, *, packed: bool) -> Tokens:
    """The rows on `device`, packed (for a model inside `packing`) or padded."""
    return _packed(rows, device) if packed else _padded(rows, pad_id, device)


def token_logprobs(model: torch.nn.Module, tokens: Tokens, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities (T, V) of the model at every completion token."""
    logits = model(**tokens.inputs, use_cache=False).logits
    logits_TV = logits[0] if tokens.real_BC is None else logits[tokens.real_BC]
    return functional.log_softmax(logits_TV.float() / temperature, dim=-1)


def _packed(rows: Sequence[Example], device: torch.device) -> Tokens:
    order = sorted(range(len(rows)), key=lambda i: _inputs(rows[i]))
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for row in (rows[i] for i in order):
        first = len(ids) + len(row.prompt_ids) - 1
        predictors += range(first, first + len(row.completion_ids))
        ids += (row.prompt_ids + row.completion_ids)[:-1]
        positions += range(_inputs(row))
        targets += row.completion_ids
        weights += row.weights
    return Tokens(
        inputs={
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            # A mask of four axes is passed on as it is: nothing is built from it.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            "logits_to_keep": torch.tensor(predictors, device=device),
            "row_lengths": [_inputs(rows[i]) for i in order],
        },
        real_BC=None,
        order=order,
        targets_T=torch.tensor(targets, device=device),
        weights_T=torch.tensor(weights, device=device),
    )


def _inputs(row: Example) -> int:
    """The row's tokens that predict another."""
    return len(row.prompt_ids) + len(row.completion_ids) - 1


def _padded(rows: Sequence[Example], pad_id: int, device: torch.device) -> Tokens:
    batch = collate(rows, pad_id).to(device)
    real_BC = batch.mask_BC.bool()
    positions = (batch.attention_BL.cumsum(-1) - 1).clamp(min=0)
    return Tokens(
        inputs={
            "input_ids": batch.ids_BL[:, :-1],
            "attention_mask": batch.attention_BL[:, :-1],
            "position_ids": positions[:, :-1],
            "logits_to_keep": batch.targets_BC.shape[1],
        },
        real_BC=real_BC,
        order=list(range(len(rows))),
        targets_T=batch.targets_BC[real_BC],
        weights_T=batch.weights_BC[real_BC],
    )


def attend(
    module: torch.nn.Module,
    query_1HNK: torch.Tensor,
    key_1HNK: torch.Tensor,
    value_1HNK: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (1, N, H, K) of rows packed in the order of their lengths; transformers' sdpa where these are not given."""
    states = (query_1HNK, key_1HNK, value_1HNK)
    if row_lengths is None:
        return sdpa_attention_forward(module, *states, attention_mask, dropout, scaling, **kwargs)
    alike = [(len(list(rows)), length) for length, rows in itertools.groupby(row_lengths)]
    tokens = [rows * length for rows, length in alike]
    pieces = zip(alike, *(state.split(tokens, dim=2) for state in states), strict=True)
    parts = [
        _attend_alike([state_1HnK[0].unflatten(1, shape) for state_1HnK in piece], dropout, scaling)
        for shape, *piece in pieces
    ]
    return torch.cat(parts)[None], None


def _attend_alike(states: Sequence[torch.Tensor], dropout: float, scale: float | None) -> torch.Tensor:
    """Causal attention of rows of one length, (D x L, H, K); `states` are queries, keys and values (H, D, L, K).

    Grouped queries have more heads than keys.
    """
    query_DHLK, key_DHLK, value_DHLK = (state_HDLK.transpose(0, 1) for state_HDLK in states)
    attended_DHLK = functional.scaled_dot_product_attention(
        query_DHLK,
        key_DHLK,
        value_DHLK,
        dropout_p=dropout,
        scale=scale,
        is_causal=True,
        enable_gqa=query_DHLK.shape[1] != key_DHLK.shape[1],
    )
    return attended_DHLK.transpose(1, 2).flatten(0, 1)


@contextlib.contextmanager
def packing(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Give the model the attention that packed rows need, for the time of the block."""
    before = model.config._attn_implementation
    if enabled:
        model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        if enabled:
            model.set_attn_implementation(before)


@torch.no_grad()
def packs(model: PreTrainedModel, rows: Sequence[Example], pad_id: int, device: torch.device) -> bool:
    """Whether the model gives these rows packed what it gives them padded, told from the longest and the shortest.

    One that attends to a window shorter than they are, or carries a state from token to token, does not; nor one with
    another attention than torch's own.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    by_length = sorted(rows, key=_inputs)
    tried = [*by_length[:COMPARED], *by_length[COMPARED:][-COMPARED:]]
    found = []
    with packing(model):
        for packed in (True, False):
            tokens = lay_out(tried, pad_id, device, packed=packed)
            logprobs_TV = token_logprobs(model, tokens)
            found.append(torch.cat(by_row(logprobs_TV, tried, tokens.order)))
    return relative_difference(*found) <= TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])


def can_pack(policy: Policy, rows: Sequence[Example], device: torch.device) -> bool:
    """Whether packed rows give a model of the policy's kind the same numbers; a warning says where they do not."""
    same = packs(policy.model.eval(), rows, policy.tokenizer.pad_token_id, device)
    if not same:
        logger.warning("%s gives packed rows other numbers: padding them", type(policy.model).__name__)
    return same


def by_row(values_T: torch.Tensor, rows: Sequence[Example], order: Sequence[int]) -> list[torch.Tensor]:
    """What `token_logprobs` gave, or anything else along T, for each row; views."""
    lengths = [len(rows[i].completion_ids) for i in order]
    pieces = dict(zip(order, values_T.split(lengths), strict=True))
    return [pieces[i] for i in range(len(rows))]


AttentionInterface.register(PACKED, attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)

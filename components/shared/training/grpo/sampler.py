"""Completions sampled for a batch of prompts: each distinct prompt is prefilled once, finished rows leave the batch.

Axes: B rows of the batch, U distinct prompts, P prompt tokens, L all tokens so far, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from components.shared.training.grpo.completion_scoring import distinct_rows

COMPACT_BELOW = 0.75
"""Share of unfinished rows below which the finished ones are taken out of the cache; copying it costs about a step."""
ROOM = 64
"""Tokens that a cache has room for when it grows."""


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
    end_ids: Sequence[int],
    pad_id: int,
    everywhere: Callable[[bool], bool] = bool,
) -> list[list[int]]:
    """A completion for each prompt, its end token included unless `max_tokens` came first.

    Draws from torch's global generator on the model's device. `everywhere` says whether all processes are done, given
    whether this one is: those of a sharded model must run it equally often.
    """
    decoding = Decoding(model, prompts, pad_id)
    ends = torch.tensor(list(end_ids), device=model.device)
    emitted: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(max_tokens):
        tokens_B = drawn((decoding.logits_BV.float() / temperature).softmax(-1))
        going_B = ~decoding.finished_B
        emitted.append((decoding.rows_B[going_B], tokens_B[going_B]))
        decoding.finished_B |= torch.isin(tokens_B, ends)
        if everywhere(bool(decoding.finished_B.all())) or step + 1 == max_tokens:
            break
        decoding.feed(tokens_B)
    completions: list[list[int]] = [[] for _ in prompts]
    for rows, tokens in emitted:
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            completions[row].append(token)
    return completions


def drawn(probabilities_BV: torch.Tensor) -> torch.Tensor:
    """A token (B,) of each distribution, by one number a row: torch.multinomial draws one for every entry."""
    cumulative_BV = probabilities_BV.double().cumsum(-1)
    at_B1 = torch.rand(len(cumulative_BV), 1, dtype=torch.float64, device=cumulative_BV.device) * cumulative_BV[:, -1:]
    # A token of probability 0 adds no step to the sum, and is passed over.
    return torch.searchsorted(cumulative_BV, at_B1, right=True).squeeze(-1).clamp(max=cumulative_BV.shape[1] - 1)


class Decoding:
    """Rows that are being decoded, and the logits of their next tokens."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int):
        self._model = model
        ids_BP, self._attention_BL = padded_left(prompts, pad_id, model.device)
        rows_U, inverse_B = distinct_rows(ids_BP, self._attention_BL)
        attention_UP = self._attention_BL[rows_U]
        output = model(
            input_ids=ids_BP[rows_U],
            attention_mask=attention_UP,
            position_ids=(attention_UP.cumsum(-1) - 1).clamp(min=0),
            past_key_values=DynamicCache(),
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = roomy(output.past_key_values, inverse_B)
        self._position_B = self._attention_BL.sum(-1)
        self.logits_BV = output.logits[inverse_B, -1]
        self.rows_B = torch.arange(len(prompts), device=model.device)
        """Which prompt each row of the batch answers."""
        self.finished_B = torch.zeros_like(self.rows_B, dtype=torch.bool)

    def feed(self, tokens_B: torch.Tensor) -> None:
        """Append a token to every row; rows that are finished may be taken out first, but for the last."""
        if 0 < (~self.finished_B).sum() < COMPACT_BELOW * len(self.finished_B):
            tokens_B = self._without_finished(tokens_B)
        self._attention_BL = torch.cat([self._attention_BL, self._attention_BL.new_ones(len(tokens_B), 1)], dim=1)
        output = self._model(
            input_ids=tokens_B[:, None],
            attention_mask=self._attention_BL,
            position_ids=self._position_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position_B = self._position_B + 1
        self.logits_BV = output.logits[:, -1]

    def _without_finished(self, tokens_B: torch.Tensor) -> torch.Tensor:
        kept = (~self.finished_B).nonzero().squeeze(-1)
        self._cache = roomy(self._cache, kept)
        self._attention_BL, self._position_B = self._attention_BL[kept], self._position_B[kept]
        self.rows_B, self.finished_B = self.rows_B[kept], self.finished_B[kept]
        return tokens_B[kept]


class RoomyLayer(DynamicLayer):
    """Keys and values with room for tokens to come: transformers' own layer copies all of them at every token."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._buffers: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", held, key_states)
        self.values = self._appended("values", held, value_states)
        return self.keys, self.values

    def _appended(self, name: str, held: int, new_BHLK: torch.Tensor) -> torch.Tensor:
        rows, heads, more, size = new_BHLK.shape
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[2] < held + more:
            larger = new_BHLK.new_empty(rows, heads, held + more + ROOM, size)
            if buffer is not None:
                larger[:, :, :held] = buffer[:, :, :held]
            self._buffers[name] = buffer = larger
        buffer[:, :, held : held + more] = new_BHLK
        return buffer[:, :, : held + more]


def roomy(cache: Cache, rows_B: torch.Tensor) -> Cache:
    """The given rows of a cache, as one with room to grow."""
    found = Cache(layer_class_to_replicate=RoomyLayer)
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        found.update(layer.keys.index_select(0, rows_B), layer.values.index_select(0, rows_B), index)
    return found


def padded_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows as `ids` and `attention_mask`, both (B, P)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows], device=device)
    attention = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, attention

"""What a policy that does not change says of rows that come up again and again: computed once where it can be kept."""

from collections.abc import Sequence

import torch

from components.shared.training.distributed.world import World
from components.shared.training.packing import Tokens, by_row, lay_out, token_logprobs
from components.shared.training.policies import Policy
from components.shared.training.supervised import Example

CACHE_BYTES = 2**30
"""Memory for the log-probabilities; past it they are computed anew for every batch."""
ROWS_AT_A_TIME = 256


class ReferenceLogprobs:
    """The reference's log-probabilities of every row, computed once where they fit in CACHE_BYTES.

    On several processes they are computed anew for every batch: a reference that is split needs all of them at once.
    """

    def __init__(
        self, reference: Policy, rows: Sequence[Example], world: World, packed: bool, temperature: float = 1.0
    ):
        """`packed` rows need the reference inside `packing`."""
        self._reference, self._world, self._packed, self._temperature = reference, world, packed, temperature
        vocabulary = reference.model.config.vocab_size
        self._kept: list[torch.Tensor] | None = None
        if world.size == 1 and 4 * vocabulary * sum(len(row.completion_ids) for row in rows) <= CACHE_BYTES:
            self._kept = [
                logprobs_CV
                for start in range(0, len(rows), ROWS_AT_A_TIME)
                for logprobs_CV in self._compute(rows[start : start + ROWS_AT_A_TIME])
            ]

    def of(self, indices: Sequence[int], tokens: Tokens) -> torch.Tensor:
        """The log-probabilities (T, V) of the rows `indices`, which `tokens` holds."""
        if self._kept is None:
            return self._logprobs(tokens)
        return torch.cat([self._kept[indices[i]] for i in tokens.order])

    def _compute(self, rows: Sequence[Example]) -> list[torch.Tensor]:
        tokens = lay_out(rows, self._reference.tokenizer.pad_token_id, self._world.device, packed=self._packed)
        return by_row(self._logprobs(tokens), rows, tokens.order)

    @torch.no_grad()
    def _logprobs(self, tokens: Tokens) -> torch.Tensor:
        return token_logprobs(self._reference.model, tokens, self._temperature)

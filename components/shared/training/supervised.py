"""Prompts and completions as padded token rows, and the log-probabilities of their completions.

Axes: B rows, L tokens of a row, C the longest completion of the batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from components.shared.training.policies import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One supervised row."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """Ends with the end token."""
    weights: list[float]
    """A weight for each completion token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows aligned at the first completion token: prompts padded on the left, completions on the right."""

    ids_BL: torch.Tensor
    attention_BL: torch.Tensor
    targets_BC: torch.Tensor
    weights_BC: torch.Tensor
    mask_BC: torch.Tensor
    """1 on completion tokens, 0 on padding."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def example(policy: Policy, prompt: str, pieces: Sequence[str], weights: Sequence[float]) -> Example:
    """A row whose completion is `pieces` joined by single spaces; the tokens of a piece carry its weight.

    A token belongs to the piece in which it ends, so that tokenizers that glue a space to the next word are right too.
    """
    encoded = policy.tokenizer(" ".join(pieces), return_offsets_mapping=True, add_special_tokens=False)
    ends, end = [], -1
    for piece in pieces:
        end += 1 + len(piece)
        ends.append(end)
    token_weights = [
        weights[next(k for k, piece_end in enumerate(ends) if stop <= piece_end)]
        for _, stop in encoded["offset_mapping"]
    ]
    return Example(
        prompt_ids=policy.tokenizer(prompt, return_token_type_ids=False)["input_ids"],
        completion_ids=[*encoded["input_ids"], policy.tokenizer.eos_token_id],
        weights=[*token_weights, weights[-1]],
    )


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad the examples into one batch."""
    longest_prompt = max(len(e.prompt_ids) for e in examples)
    longest_completion = max(len(e.completion_ids) for e in examples)
    ids, attention, targets, weights, mask = [], [], [], [], []
    for e in examples:
        left, right = longest_prompt - len(e.prompt_ids), longest_completion - len(e.completion_ids)
        used = len(e.prompt_ids) + len(e.completion_ids)
        ids.append([pad_id] * left + e.prompt_ids + e.completion_ids + [pad_id] * right)
        attention.append([0] * left + [1] * used + [0] * right)
        targets.append(e.completion_ids + [pad_id] * right)
        weights.append(e.weights + [0.0] * right)
        mask.append([1.0] * len(e.completion_ids) + [0.0] * right)
    return Batch(
        ids_BL=torch.tensor(ids),
        attention_BL=torch.tensor(attention),
        targets_BC=torch.tensor(targets),
        weights_BC=torch.tensor(weights),
        mask_BC=torch.tensor(mask),
    )


def completion_logprobs(model: torch.nn.Module, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities (B, C, V) of the model at every completion position; only those positions are projected."""
    completion = batch.targets_BC.shape[1]
    positions = (batch.attention_BL.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=batch.ids_BL[:, :-1],
        attention_mask=batch.attention_BL[:, :-1],
        position_ids=positions[:, :-1],
        logits_to_keep=completion,
        use_cache=False,
    ).logits
    return functional.log_softmax(logits.float() / temperature, dim=-1)


def chosen(logprobs_BCV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Log-probabilities (B, C) of the target tokens."""
    return logprobs_BCV.gather(-1, batch.targets_BC[..., None]).squeeze(-1)


def masked_mean(values_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that the mask keeps."""
    return (values_BC * mask_BC).sum() / mask_BC.sum()

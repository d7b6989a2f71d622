"""Is a faster way to compute log-probabilities the same as TRL's for this very model? Asked once, on the first batch."""

from collections.abc import Callable, Iterable

import torch

Scores = tuple[torch.Tensor, torch.Tensor]
"""Log-probabilities and entropies, both (B, C)."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference by the model's type. float32 differs by about 5e-7 where all is well."""


def difference(
    ours: Callable[[], Scores],
    theirs: Callable[[], Scores],
    parameters: Iterable[torch.nn.Parameter],
    keep_BC: torch.Tensor,
) -> float:
    """The largest relative difference in log-probabilities, entropies and gradients over the tokens that `keep_BC` keeps.

    Gradients are those of one scalar that weighs every token's log-probability and entropy differently, so that
    differences do not cancel; they are compared by the norm over all parameters.
    """
    trainable = [p for p in parameters if p.requires_grad]
    (logprobs, entropies, gradients), (logprobs_, entropies_, gradients_) = (
        _scores_and_gradients(way, trainable, keep_BC) for way in (ours, theirs)
    )
    gaps = relative_difference(logprobs, logprobs_), relative_difference(entropies, entropies_)
    return max(*gaps, _relative_norm(gradients, gradients_))


def _scores_and_gradients(
    way: Callable[[], Scores], parameters: list[torch.nn.Parameter], keep_BC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    with torch.enable_grad():
        logprobs, entropies = (values[keep_BC] for values in way())
        weights = torch.cos(torch.arange(len(logprobs), device=logprobs.device, dtype=torch.float32))
        scalar = (weights * logprobs + weights.roll(1) * entropies).mean()
        gradients = torch.autograd.grad(scalar, parameters, allow_unused=True)
    return logprobs.detach(), entropies.detach(), [p if g is None else g for g, p in _zeros_for(gradients, parameters)]


def _zeros_for(gradients: Iterable[torch.Tensor | None], parameters: Iterable[torch.Tensor]):
    return ((g, torch.zeros_like(p)) for g, p in zip(gradients, parameters, strict=True))


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest, where 1 is added to what is divided by."""
    return ((ours - theirs).abs() / (1 + theirs.abs())).max().item()


def _relative_norm(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    gap = torch.stack([(a - b).float().norm() for a, b in zip(ours, theirs, strict=True)]).norm()
    return (gap / torch.stack([b.float().norm() for b in theirs]).norm().clamp(min=1e-12)).item()

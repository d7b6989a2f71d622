"""Divergences between two policies at the same positions. Axes: B rows, C completion tokens, V vocabulary.

`full_kl` sums over the vocabulary and is exact at a position; `k1`, `k2`, `k3` are Schulman's one-sample estimators of
KL(p || q) for tokens drawn from p (joschu.net/blog/kl-approx.html): k1 unbiased with high variance, k2 biased with low
variance and, as a loss on-policy, the gradient of the KL; k3 unbiased and never negative, but biased as a loss.
"""

import torch


def full_kl(logp_BCV: torch.Tensor, logq_BCV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats at each position (B, C)."""
    return (logp_BCV.exp() * (logp_BCV - logq_BCV)).sum(-1)


def k1(logp_BC: torch.Tensor, logq_BC: torch.Tensor) -> torch.Tensor:
    """log p - log q of the drawn tokens."""
    return logp_BC - logq_BC


def k2(logp_BC: torch.Tensor, logq_BC: torch.Tensor) -> torch.Tensor:
    """(log p - log q)^2 / 2."""
    return 0.5 * (logp_BC - logq_BC).square()


def k3(logp_BC: torch.Tensor, logq_BC: torch.Tensor) -> torch.Tensor:
    """q / p - 1 - log(q / p)."""
    ratio = logq_BC - logp_BC
    return ratio.exp() - 1 - ratio

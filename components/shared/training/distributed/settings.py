"""What every learner is told."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSettings:
    """The optimiser's hyperparameters; the rate comes with every step."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

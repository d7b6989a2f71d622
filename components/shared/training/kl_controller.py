"""Keeps the KL of a policy to its reference near a target, and under a ceiling at every accepted update.

The coefficient follows Ziegler et al. (arXiv 1909.08593, equation 3): beta *= 1 + gain * clip(kl / target - 1, -0.2, 0.2),
with KL as a mean per token, in nats. The ceiling is hard: an update that breaks it is refused, undone by the trainer and
tried again smaller; after `patience` refusals in a row the controller says to stop.
"""

from dataclasses import asdict, dataclass


@dataclass(kw_only=True, slots=True)
class KLController:
    """State of one training run; `state()` and `restore()` carry it through a checkpoint."""

    beta: float
    """Coefficient of the penalty now."""
    beta_floor: float
    target_nats_per_token: float
    ceiling_nats_per_token: float
    patience: int
    gain: float = 1.0
    step_scale: float = 1.0
    """Factor on the learning rate: halved by a refusal, won back by accepted updates."""
    refused: int = 0
    refused_in_a_row: int = 0
    highest_accepted: float = 0.0

    def accept(self, kl_nats_per_token: float) -> bool:
        """Judge an update by the KL after it, and adapt. False: undo the update and try it again."""
        error = kl_nats_per_token / self.target_nats_per_token - 1
        self.beta = max(self.beta_floor, self.beta * (1 + self.gain * max(-0.2, min(0.2, error))))
        if kl_nats_per_token >= self.ceiling_nats_per_token:
            self.refused += 1
            self.refused_in_a_row += 1
            self.step_scale /= 2
            return False
        self.refused_in_a_row = 0
        self.step_scale = min(1.0, self.step_scale * 1.1)
        self.highest_accepted = max(self.highest_accepted, kl_nats_per_token)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether so many updates were refused in a row that training must end (reason `kl_ceiling`)."""
        return self.refused_in_a_row >= self.patience

    def state(self) -> dict[str, float]:
        return asdict(self)

    def restore(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

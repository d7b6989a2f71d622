"""Step rewards to weights: z-scores over the whole data set, shifted so that no expert token is ever pushed down.

A raw z-score as a weight makes the likelihood of below-average steps fall, which tears the policy from its reference;
max(0, 1 + z) ignores the worst steps and stresses the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardNormalizer:
    """Mean and standard deviation of the rewards it was fitted on."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, rewards: Sequence[float]) -> "RewardNormalizer":
        """Fit on at least one reward. Equal rewards have no deviation: every z is then 0 and every weight 1."""
        return cls(mean=fmean(rewards), deviation=pstdev(rewards))

    def z(self, reward: float) -> float:
        """Distance from the mean in standard deviations."""
        return (reward - self.mean) / self.deviation if self.deviation else 0.0

    def weight(self, reward: float) -> float:
        """max(0, 1 + z)."""
        return max(0.0, 1.0 + self.z(reward))

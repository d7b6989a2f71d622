"""An always-valid test that one arm is worse than another: it may be looked at after every request.

The mixture sequential probability ratio test (Johari, Pekelis, Walsh, arXiv 1512.04922) on the difference of two means, with
a half-normal mixture over harmful differences alone. Departs from the paper in the variance, which is clustered by session
(requests of one session are alike, and arms are assigned by session), and in strata: the difference is combined over stages
by inverse variance, so that a change of traffic between stages, when the shares change, is not taken for an effect.

Symbols: d is the estimated difference in the direction of harm, V its variance, tau the scale of differences that matter.
"""

import math
from collections.abc import Iterable

from components.shared.contracts.records import Record

PRIOR_SQUARE = 0.05
"""One imagined deviation, squared, so that an arm that has not varied yet is not taken for one that cannot vary."""
MIN_SESSIONS = 30
"""Sessions in each arm below which a stratum does not count: the variance is not known yet."""


class SessionSums(Record):
    """Sums over sessions s of their number of values n_s and their total t_s: enough for a mean and its variance."""

    sessions: int = 0
    n: float = 0.0
    t: float = 0.0
    nn: float = 0.0
    nt: float = 0.0
    tt: float = 0.0

    def changed(self, sessions: int, n: float, t: float, nn: float, nt: float, tt: float) -> "SessionSums":
        """The sums with these amounts added."""
        # model_construct: this runs for every request, and sums of checked numbers need no check.
        return SessionSums.model_construct(
            sessions=self.sessions + sessions,
            n=self.n + n,
            t=self.t + t,
            nn=self.nn + nn,
            nt=self.nt + nt,
            tt=self.tt + tt,
        )

    def with_value(self, value: float, n: int, t: float) -> "SessionSums":
        """The sums after one more value of a session that had `n` values with total `t`."""
        return self.changed(
            int(n == 0), 1, value, 2 * n + 1, (n + 1) * (t + value) - n * t, 2 * t * value + value * value
        )

    @property
    def mean(self) -> float:
        return self.t / self.n

    @property
    def variance(self) -> float:
        """Variance of the mean, clustered by session."""
        mean = self.mean
        squares = self.tt - 2 * mean * self.nt + mean * mean * self.nn
        small = self.sessions / max(1, self.sessions - 1)
        return (max(0.0, squares) * small + PRIOR_SQUARE) / (self.n * self.n)


def harm(strata: Iterable[tuple[SessionSums, SessionSums]], sign: int) -> tuple[float, float] | None:
    """The combined difference (d, V) of challenger minus champion over (champion, challenger) strata.

    `sign` is 1 where more is worse, -1 where less is. None where no stratum has enough sessions.
    """
    information = weighted = 0.0
    for champion, challenger in strata:
        if min(champion.sessions, challenger.sessions) >= MIN_SESSIONS:
            weight = 1.0 / (champion.variance + challenger.variance)
            information += weight
            weighted += weight * sign * (challenger.mean - champion.mean)
    return (weighted / information, 1.0 / information) if information else None


def log_likelihood_ratio(d: float, V: float, tau: float) -> float:
    """Log of the mixture likelihood ratio of harm against none; the test rejects above log(1 / alpha), at any time.

    2 sqrt(V / (V + tau^2)) exp(d^2 tau^2 / (2 V (V + tau^2))) Phi(d tau / sqrt(V (V + tau^2)))
    """
    total = V + tau * tau
    z = d * tau / math.sqrt(V * total)
    return math.log(2) + 0.5 * math.log(V / total) + z * z / 2 + _log_normal_cdf(z)


def _log_normal_cdf(z: float) -> float:
    if z < -8:  # the tail's leading term, where the function itself underflows
        return -z * z / 2 - math.log(-z) - 0.5 * math.log(2 * math.pi)
    return math.log(0.5 * math.erfc(-z / math.sqrt(2)))

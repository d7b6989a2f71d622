"""Where a policy fails, and whether that is real: slices, failure modes and degradation from evaluated answers.

    weaknesses  slices by one or two traits, or by difficulty, that fail more than what they are cut from
    modes       rules that are broken together
    degraded    what became worse than the last accepted version, paired by scenario

Many things are looked at, so p-values are adjusted (Benjamini and Hochberg 1995) and only what stays below `ALPHA` is
reported: nobody is sent after noise.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom, hypergeom

from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario
from components.shared.contracts.weakness import (
    Checked,
    Degradation,
    Evaluated,
    FailureMode,
    Weakness,
    WeaknessReport,
)
from components.shared.performance.proportions import ALPHA, adjusted, wilson

if TYPE_CHECKING:
    from components.shared.performance.scoring import Scores

KINDS = 32
"""Most values by which a field still sorts scenarios into kinds."""
FEWEST = 10
"""Scenarios below which a slice says nothing."""
TOGETHER = 0.8
"""Overlap (Jaccard) of the answers that break two rules, from which they are one mode."""
EVIDENCE = 5
"""Scenarios named for each find."""
BANDS = {"easy": (0.0, 1 / 3), "medium": (1 / 3, 2 / 3), "hard": (2 / 3, 1.0)}
"""Slices by difficulty; a scenario on an edge lies in both."""


def evaluated(scenarios: Sequence[Scenario], scores: Mapping[str, "Scores"]) -> list[Evaluated]:
    """What each role made of each scenario, with the traits that sort them."""
    values: dict[str, set[str]] = defaultdict(set)
    for scenario in scenarios:
        for name, value in scenario.state.items():
            if isinstance(value, str):
                values[name].add(value)
    sorting = [name for name, found in values.items() if 2 <= len(found) <= KINDS]
    return [
        Evaluated(
            scenario=scenario.id,
            traits={name: str(scenario.state[name]) for name in sorting if name in scenario.state},
            difficulty=scenario.difficulty,
            outcomes={
                role: Checked(score=s.greedy[i], correct=bool(s.correct[i]), faults=s.faults[i])
                for role, s in scores.items()
            },
        )
        for i, scenario in enumerate(scenarios)
    ]


def detect(
    answers: Sequence[Evaluated], *, model_type: str, policy: str, role: str, accepted: str | None = None
) -> WeaknessReport:
    """What `role` fails at, and what it does worse than `accepted` does. Raises GateError without answers."""
    if not answers:
        raise GateError(f"{model_type}: no evaluated answers: evaluate the policy on held-out scenarios first")
    slices = list(_slices(answers))
    return WeaknessReport(
        model_type=model_type,
        policy=policy,
        weaknesses=tuple(weaknesses(answers, slices, role)),
        modes=tuple(failure_modes(answers, role)),
        degraded=tuple(degradations(answers, slices, role, accepted)) if accepted else (),
    )


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """Some of the answers, and what it is cut from."""

    traits: tuple[tuple[str, str], ...] = ()
    band: str | None = None
    members_N: np.ndarray
    """Whether each answer lies in it."""
    parents_N: tuple[np.ndarray, ...]
    """The wider slices that it must be worse than."""

    @property
    def name(self) -> str:
        return ", ".join([*(f"{field} {value}" for field, value in self.traits), *([self.band] if self.band else [])])


def _slices(answers: Sequence[Evaluated]) -> Iterator[_Slice]:
    """Every slice of one trait, of two, and of difficulty, that is large enough to say something."""
    everything_N = np.ones(len(answers), dtype=bool)
    singles = {
        (field, value): np.array([a.traits.get(field) == value for a in answers])
        for field, value in sorted({item for a in answers for item in a.traits.items()})
    }
    found = [_Slice(traits=(t,), members_N=m, parents_N=(everything_N,)) for t, m in singles.items()]
    for (one, mine_N), (other, theirs_N) in itertools.combinations(singles.items(), 2):
        if one[0] != other[0]:
            found.append(_Slice(traits=(one, other), members_N=mine_N & theirs_N, parents_N=(mine_N, theirs_N)))
    for band, (low, high) in BANDS.items():
        inside_N = np.array([low <= a.difficulty <= high for a in answers])
        found.append(_Slice(band=band, members_N=inside_N, parents_N=(everything_N,)))
    return (s for s in found if s.members_N.sum() >= FEWEST)


def weaknesses(answers: Sequence[Evaluated], slices: Sequence[_Slice], role: str) -> list[Weakness]:
    """Slices that fail more than what they are cut from, the most failures first.

    Each slice is tested against the rest of its parents (Fisher's exact test, one-sided), and must be worse than all.
    """
    failed_N = np.array([not a.outcomes[role].correct for a in answers])
    tested = [(s, _worst_parent(s, failed_N)) for s in slices]
    certain = adjusted([p for _, (p, _) in tested])
    found = [
        _weakness(answers, s, failed_N, elsewhere, p, role)
        for (s, (_, elsewhere)), p in zip(tested, certain, strict=True)
        if p < ALPHA
    ]
    return sorted(found, key=lambda w: (-w.failure_rate * w.count, w.name))


def _worst_parent(cut: _Slice, failed_N: np.ndarray) -> tuple[float, float]:
    """The largest p-value over the parents, and the failure rate of the rest of that parent."""
    results = []
    for parent_N in cut.parents_N:
        rest_N = parent_N & ~cut.members_N
        if not rest_N.any():
            return 1.0, 0.0
        # P(as many failures or more fall into the slice | the parent's failures are spread by chance)
        p = hypergeom.sf(
            failed_N[cut.members_N].sum() - 1, parent_N.sum(), failed_N[parent_N].sum(), cut.members_N.sum()
        )
        results.append((float(p), float(failed_N[rest_N].mean())))
    return max(results)


def _weakness(
    answers: Sequence[Evaluated], cut: _Slice, failed_N: np.ndarray, elsewhere: float, p: float, role: str
) -> Weakness:
    failing = [a for a, bad in zip(answers, failed_N & cut.members_N, strict=True) if bad]
    rules = Counter(rule for a in failing for rule in a.outcomes[role].faults)
    return Weakness(
        name=cut.name,
        state=dict(cut.traits),
        difficulty=BANDS[cut.band] if cut.band else (0.0, 1.0),
        failure_rate=float(failed_N[cut.members_N].mean()),
        count=int(cut.members_N.sum()),
        elsewhere=elsewhere,
        p_value=p,
        rules=dict(rules.most_common()),
        scenarios=_ids(failing),
    )


def failure_modes(answers: Sequence[Evaluated], role: str) -> list[FailureMode]:
    """Rules that are broken by nearly the same answers, joined (single linkage); the commonest mode first."""
    broken: dict[str, set[int]] = defaultdict(set)
    for i, answer in enumerate(answers):
        for rule in answer.outcomes[role].faults:
            broken[rule].add(i)
    groups: list[tuple[set[str], set[int]]] = []
    for rule, where in sorted(broken.items()):
        joined = [g for g in groups if any(_jaccard(where, broken[other]) >= TOGETHER for other in g[0])]
        groups = [g for g in groups if g not in joined]
        rules, places = {rule}.union(*(g[0] for g in joined)), where.union(*(g[1] for g in joined))
        groups.append((rules, places))
    modes = [_mode(answers, rules, places) for rules, places in groups]
    return sorted(modes, key=lambda mode: (-mode.count, mode.rules))


def _jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b)


def _mode(answers: Sequence[Evaluated], rules: set[str], places: set[int]) -> FailureMode:
    low, high = wilson(len(places), len(answers))
    return FailureMode(
        rules=tuple(sorted(rules)),
        count=len(places),
        rate=len(places) / len(answers),
        low=low,
        high=high,
        scenarios=_ids([answers[i] for i in places]),
    )


def degradations(answers: Sequence[Evaluated], slices: Sequence[_Slice], role: str, accepted: str) -> list[Degradation]:
    """What `role` gets wrong and `accepted` did not, more often than the other way round (McNemar's exact test)."""
    roles, everything_N = (role, accepted), np.ones(len(answers), dtype=bool)
    now_N, before_N = (np.array([not a.outcomes[r].correct for a in answers]) for r in roles)
    tests = [_mcnemar("all scenarios", everything_N, now_N, before_N)]
    tests += [_mcnemar(s.name, s.members_N, now_N, before_N) for s in slices]
    for rule in sorted({rule for a in answers for r in roles for rule in a.outcomes[r].faults}):
        now_N, before_N = (np.array([rule in a.outcomes[r].faults for a in answers]) for r in roles)
        tests.append(_mcnemar(rule, everything_N, now_N, before_N))
    certain = adjusted([test.p_value for test in tests])
    found = [t.model_copy(update={"p_value": p}) for t, p in zip(tests, certain, strict=True) if p < ALPHA]
    return sorted(found, key=lambda d: (d.p_value, d.name))


def _mcnemar(name: str, among_N: np.ndarray, now_N: np.ndarray, before_N: np.ndarray) -> Degradation:
    worse, better = int((among_N & now_N & ~before_N).sum()), int((among_N & ~now_N & before_N).sum())
    return Degradation(
        name=name,
        before=float(before_N[among_N].mean()),
        now=float(now_N[among_N].mean()),
        count=int(among_N.sum()),
        worse=worse,
        better=better,
        p_value=min(1.0, float(binom.sf(worse - 1, worse + better, 0.5))),
    )


def _ids(answers: Sequence[Evaluated]) -> tuple[str, ...]:
    return tuple(sorted(a.scenario for a in answers)[:EVIDENCE])

"""The teacher planner as a contextual bandit: Thompson sampling over a Bayesian linear model.

A plan's reward (the verifier's score less what it cost) is taken to be linear in one-hot features of its four choices,
each by itself and times the scenario's difficulty, with Gaussian noise of unknown variance (normal-inverse-gamma prior:
Bishop 2006, section 3.3; Agrawal and Goyal 2013). For each scenario one model is drawn from the posterior and its best plan
is taken, so what is uncertain gets tried in proportion to the chance that it is best. Choices share strength: what is
learnt of a teacher under one strategy counts under the next.

Decisions are made in rounds and depend on the rounds before alone; what earlier nights learnt comes in as a `PlannerState`.

Axes: F features, P plans.
"""

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import JsonValue

from components.shared.collaboration.planner import Lesson, Plan, PlannerState
from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario

PRIOR_PRECISION = 1.0
"""Of the weights, in units of the noise's precision."""
PRIOR_SHAPE, PRIOR_RATE = 2.0, 0.1
"""Of the noise's precision: a standard deviation of about 0.3."""


class BanditPlanner:
    """Chooses among `plans`; `state` is what an earlier night learnt."""

    def __init__(
        self,
        model_type: str,
        plans: Sequence[Plan],
        *,
        seed: int,
        score_per_usd: float,
        round_size: int = 128,
        state: PlannerState | None = None,
    ):
        if state is not None and state.model_type != model_type:
            raise UsageError(f"the planner's state is of {state.model_type}, not of {model_type}: pass the right one")
        if len(set(plans)) < len(plans) or not plans:
            raise UsageError(f"{len(plans)} plans, {len(set(plans))} of them distinct: name each choice once")
        self.model_type, self.plans, self.round_size = model_type, tuple(plans), round_size
        self._seed, self._score_per_usd = seed, score_per_usd
        known = state.features if state else ()
        new = sorted({name for plan in plans for name in features(plan)} - set(known))
        self._features = (*known, *new)
        self._place = {name: place for place, name in enumerate(self._features)}
        size = len(self._features)
        self._products_FF, self._moments_F = np.zeros((size, size)), np.zeros(size)
        if state:
            self._products_FF[: len(known), : len(known)] = state.products
            self._moments_F[: len(known)] = state.moments
        self._squares, self._count = (state.squares, state.lessons) if state else (0.0, 0)
        self.lessons: list[Lesson] = []
        """Tonight's, in order."""

    def plan(self, scenarios: Sequence[Scenario]) -> list[Plan]:
        mean_F, factor_FF, rate = self._posterior()
        plans = []
        for scenario in scenarios:
            rng = np.random.default_rng(_seed(self._seed, scenario.id))
            variance = rate / rng.gamma(PRIOR_SHAPE + self._count / 2)
            weights_F = mean_F + math.sqrt(variance) * factor_FF @ rng.standard_normal(len(mean_F))
            plans.append(self.plans[int(np.argmax(self._design(scenario.difficulty) @ weights_F))])
        return plans

    def learn(self, lessons: Sequence[Lesson]) -> None:
        for lesson in lessons:
            x_F, reward = self._row(lesson.plan, lesson.scenario.difficulty), self.reward(lesson)
            self._products_FF += np.outer(x_F, x_F)
            self._moments_F += reward * x_F
            self._squares += reward * reward
            self._count += 1
        self.lessons += lessons

    def reward(self, lesson: Lesson) -> float:
        """The verifier's score less the cost."""
        return lesson.score - self._score_per_usd * lesson.usd

    @property
    def state(self) -> PlannerState:
        """Everything learnt so far, for the next night."""
        return PlannerState(
            model_type=self.model_type,
            features=self._features,
            products=tuple(map(tuple, self._products_FF.tolist())),
            moments=tuple(self._moments_F.tolist()),
            squares=self._squares,
            lessons=self._count,
        )

    def report(self) -> dict[str, Any]:
        """Tonight's choices with their mean reward, and the regret by the posterior mean at the end of the night.

        Regret is what the best plan is now expected to have earned beyond the plans chosen; by round, it shows learning.
        """
        mean_F, _, _ = self._posterior()
        chosen: dict[str, list[Lesson]] = defaultdict(list)
        regrets = []
        for lesson in self.lessons:
            chosen[lesson.plan.name].append(lesson)
            expected_P = self._design(lesson.scenario.difficulty) @ mean_F
            regrets.append(float(expected_P.max() - expected_P[self.plans.index(lesson.plan)]))
        choices: dict[str, JsonValue] = {
            name: {
                "chosen": len(lessons),
                "mean_reward": sum(map(self.reward, lessons)) / len(lessons),
                "usd": sum(lesson.usd for lesson in lessons),
            }
            for name, lessons in sorted(chosen.items())
        }
        rounds = [regrets[start : start + self.round_size] for start in range(0, len(regrets), self.round_size)]
        best = {
            label: self.plans[int(np.argmax(self._design(difficulty) @ mean_F))].name
            for label, difficulty in (("easy", 0.0), ("medium", 0.5), ("hard", 1.0))
        }
        return {
            "choices": choices,
            "best_plan_by_difficulty": dict(best),
            "regret": sum(regrets),
            "mean_regret_by_round": [sum(r) / len(r) for r in rounds],
            "lessons_in_all": self._count,
        }

    def _posterior(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean of the weights, a factor L of their scaled covariance LL', and the rate of the noise's precision."""
        precision_FF = PRIOR_PRECISION * np.eye(len(self._features)) + self._products_FF
        cholesky_FF = np.linalg.cholesky(precision_FF)
        mean_F = np.linalg.solve(precision_FF, self._moments_F)
        residual = max(0.0, self._squares - float(mean_F @ self._moments_F))
        return mean_F, np.linalg.inv(cholesky_FF).T, PRIOR_RATE + residual / 2

    def _row(self, plan: Plan, difficulty: float) -> np.ndarray:
        row_F = np.zeros(len(self._features))
        for name in features(plan):
            row_F[self._place[name]] = difficulty if name.endswith(BY_DIFFICULTY) else 1.0
        return row_F

    def _design(self, difficulty: float) -> np.ndarray:
        return np.stack([self._row(plan, difficulty) for plan in self.plans])


BY_DIFFICULTY = " x difficulty"


def features(plan: Plan) -> tuple[str, ...]:
    """The names of what a plan's reward is made of."""
    choices = (
        f"teacher={plan.teacher}",
        f"strategy={plan.strategy}",
        f"depth={plan.depth}",
        f"steps={plan.step_budget}",
    )
    return (*choices, *(choice + BY_DIFFICULTY for choice in choices))


def plans_of(
    teachers: Sequence[str], strategies: Sequence, depths: Sequence[int], step_budgets: Sequence[int | None]
) -> list[Plan]:
    """Every combination of the choices."""
    return [
        Plan(teacher=teacher, strategy=strategy, depth=depth, step_budget=budget)
        for teacher, strategy, depth, budget in itertools.product(teachers, strategies, depths, step_budgets)
    ]


def _seed(seed: int, scenario_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{scenario_id}".encode()).digest()[:8])

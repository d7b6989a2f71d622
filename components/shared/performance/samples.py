"""Rollouts to read: the same held-out prompts answered by whatever policy comes by."""

from components.shared.contracts.records import Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.datasets import Dataset
from components.shared.training.policies import Policy
from components.shared.training.rollouts import complete

READ = 8
"""Rollouts a person reads."""


def sample_rollouts(policy: Policy, dataset: Dataset, tracker: PerformanceTracker, step: int) -> None:
    """Record the policy's greedy answers to the first validation scenarios, with their outcome reward."""
    scenarios = list(dataset.scenarios(Split.VALIDATION))[:READ]
    answers = complete(policy, [s.prompt for s in scenarios], max_tokens=dataset.max_tokens(policy.tokenizer))
    for scenario, answer in zip(scenarios, answers, strict=True):
        reward = dataset.trainer.reward(scenario, answer)
        tracker.sample(step, prompt=scenario.prompt, completion=answer, reward=reward.total, gate=reward.gate)

"""Run the RLVR stage."""

from collections.abc import Mapping
from pathlib import Path

from components.rlvr.rlvr_trainer import train
from components.rlvr.spec import SPEC, RLVRConfig
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.samples import sample_rollouts
from components.shared.training.datasets import Dataset
from components.shared.training.policies import deterministic, load_policy, save_policy


def run(config: RLVRConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Train the SRL policy on the outcomes of the training scenarios.

    Raises PipelineError where there are fewer scenarios than one update needs.
    """
    deterministic(config.seed)
    dataset = Dataset.open(inputs["dataset"])
    scenarios = list(dataset.scenarios(Split.TRAIN))
    if len(scenarios) < config.prompts_per_step:
        raise PipelineError(
            f"rlvr: {len(scenarios)} training scenarios, fewer than prompts_per_step = {config.prompts_per_step}: "
            "draw more (trajectory_generation.counts.train) or lower it"
        )
    policy = load_policy(inputs["policy"])
    tracker = PerformanceTracker(outputs["report"])
    result = train(policy, inputs["policy"], dataset, scenarios, config, tracker)
    sample_rollouts(policy, dataset, tracker, step=config.steps)
    save_policy(policy, outputs["policy"])
    return Report(
        stage=SPEC.name,
        summary=f"{config.steps} updates, reward {result.first_reward:.3f} -> {result.last_reward:.3f}, "
        f"KL to the SRL policy {result.last_kl:.3f}",
        metrics={
            "first_reward": result.first_reward,
            "last_reward": result.last_reward,
            "last_kl": result.last_kl,
            "highest_kl": result.highest_kl,
        },
    )

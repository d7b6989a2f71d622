"""Run the RLVR stage."""

from collections.abc import Mapping
from pathlib import Path

from components.rlvr.forgetting import forgetting, measure
from components.rlvr.rlvr_trainer import train
from components.rlvr.spec import SPEC, RLVRConfig
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.samples import sample_rollouts
from components.shared.training.adapters import merged, opened
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.launch import strategy_of_job
from components.shared.training.distributed.world import joined
from components.shared.training.policies import deterministic, save_policy

RETENTION_TASKS = 200
"""Held-out scenarios, and as many trajectories, on which forgetting is measured."""


def run(config: RLVRConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Train the SRL policy on the outcomes of the training scenarios.

    Raises PipelineError where there are fewer scenarios than one rollout needs, or none to measure the KL on.
    """
    deterministic(config.seed)
    dataset = Dataset.open(inputs["dataset"])
    scenarios = list(dataset.scenarios(Split.TRAIN))
    held_out = list(dataset.scenarios(Split.VALIDATION))[:RETENTION_TASKS]
    texts = list(dataset.trajectories(Split.VALIDATION))[:RETENTION_TASKS]
    if len(scenarios) < config.prompts_per_step or not held_out:
        raise PipelineError(
            f"rlvr: {len(scenarios)} training and {len(held_out)} validation scenarios, {config.prompts_per_step} and 1 "
            "are needed: draw more (trajectory_generation.counts) or lower prompts_per_step"
        )
    with joined() as world:
        policy, reference = opened(inputs["policy"], config.lora_rank, strategy_of_job(), world)
        max_tokens = dataset.max_tokens(policy.tokenizer)
        before = measure(reference, dataset.trainer, held_out, texts, max_tokens)
        tracker = PerformanceTracker(outputs["report"])
        checkpoints = Checkpoints.of_stage(SPEC, config, inputs, world)
        result = train(policy, reference, inputs["policy"], dataset, scenarios, config, tracker, checkpoints)
        policy = merged(policy)
        after = measure(policy, dataset.trainer, held_out, texts, max_tokens)
        sample_rollouts(policy, dataset, tracker, step=result.updates)
        save_policy(policy, outputs["policy"])
    return Report(
        stage=SPEC.name,
        summary=f"{result.updates} updates by {config.algorithm}, reward {result.first_reward:.3f} -> "
        f"{result.last_reward:.3f}, KL to the SRL policy {result.last_kl:.3f}, {result.reason}, "
        f"{len(result.alerts)} alerts",
        metrics={
            "updates": result.updates,
            "refused": result.refused,
            "first_reward": result.first_reward,
            "last_reward": result.last_reward,
            "last_kl": result.last_kl,
            "highest_kl": result.highest_kl,
            "highest_probe_kl": result.highest_probe_kl,
        },
        details={
            "reason": result.reason,
            "alerts": list(result.alerts),
            "validation": result.validation,
            "forgetting": forgetting(before, after),
        },
    )

"""Run the SRL stage."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.samples import sample_rollouts
from components.shared.training.adapters import merged, opened
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.datasets import Dataset
from components.shared.training.distributed.launch import strategy_of_job
from components.shared.training.distributed.learner import create_learner
from components.shared.training.distributed.world import joined
from components.shared.training.policies import deterministic, save_policy
from components.shared.training.validation_callback import Validation
from components.srl import similarity_trainer
from components.srl.spec import SPEC, Reading, SRLConfig
from components.srl.srl_trainer import SRLResult, optimizer_settings, train


def run(config: SRLConfig, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> Report:
    """Train the policy on the data set's training trajectories.

    Raises PipelineError where there are none to train on, or none to measure the KL on.
    """
    deterministic(config.seed)
    dataset = Dataset.open(inputs["dataset"])
    rows, probe = (list(dataset.trajectories(split)) for split in (Split.TRAIN, Split.VALIDATION))
    if not rows or not probe:
        raise PipelineError(
            f"srl: {len(rows)} training and {len(probe)} validation trajectories: generate more of both"
        )
    with joined() as world:
        strategy = strategy_of_job()
        policy, reference = opened(inputs["policy"], config.lora_rank, strategy, world)
        tracker = PerformanceTracker(outputs["report"])
        checkpoints = Checkpoints.of_stage(SPEC, config, inputs, world)
        scenarios, max_tokens = list(dataset.scenarios(Split.VALIDATION)), dataset.max_tokens(policy.tokenizer)
        validation = Validation.of(config.validation, policy, dataset.trainer, scenarios, max_tokens, tracker, world)
        if config.reading == Reading.SIMILARITY:
            weights = None
            result: similarity_trainer.SimilarityResult | SRLResult = similarity_trainer.train(
                policy, reference, inputs["policy"], dataset, config, tracker, validation, checkpoints
            )
        else:
            learner = create_learner(policy.model, strategy, world, optimizer_settings(config))
            result = train(policy, reference, rows, probe, config, tracker, learner, checkpoints, validation)
            weights = learner.weights() if config.lora_rank is None else None
        policy = merged(policy)
        sample_rollouts(policy, dataset, tracker, step=result.updates)
        save_policy(policy, outputs["policy"], weights)
    return Report(
        stage=SPEC.name,
        summary=f"{result.updates} updates on {len(rows)} trajectories, highest KL {result.highest_kl:.3f}, {result.reason}",
        metrics={"updates": result.updates, "refused": result.refused, "highest_kl": result.highest_kl},
        details=asdict(result),
    )

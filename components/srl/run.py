"""Run the SRL stage."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.performance.samples import sample_rollouts
from components.shared.training.datasets import Dataset
from components.shared.training.policies import deterministic, load_policy, save_policy
from components.srl.spec import SPEC, SRLConfig
from components.srl.srl_trainer import train


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
    policy, reference = load_policy(inputs["policy"]), load_policy(inputs["policy"])
    tracker = PerformanceTracker(outputs["report"])
    result = train(policy, reference, rows, probe, config, tracker)
    sample_rollouts(policy, dataset, tracker, step=result.updates)
    save_policy(policy, outputs["policy"])
    return Report(
        stage=SPEC.name,
        summary=f"{result.updates} updates on {len(rows)} trajectories, highest KL {result.highest_kl:.3f}, {result.reason}",
        metrics={"updates": result.updates, "refused": result.refused, "highest_kl": result.highest_kl},
        details=asdict(result),
    )

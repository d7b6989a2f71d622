"""Post-training: one model type on one tier, from the expert's trajectories to a registered policy.

trajectory_generation -> verification -> data_validation -> srl -> rlvr -> evaluation -> [gate] -> register_TIER
"""

from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineParameterChannel

from components.shared.contracts.stage import ArtifactKind
from pipelines.definitions.composer import Composer, pipeline
from pipelines.definitions.tasks import prepare, register, train


def define(compose: Composer) -> GraphComponent:
    tier, defaults = compose.settings.tier, compose.settings.defaults
    base_policy = compose.settings.uri("base_uri", tier)

    @pipeline("post-training")
    def post_training(
        champion_uri: str,
        base_uri: str = base_policy,
        model_type: str = defaults["model_type"],
        world: str = defaults["world"],
        night: str = defaults["night"],
        seed: int = defaults["seed"],
        threshold: float = defaults["threshold"],
        min_gain: float = defaults["min_gain"],
        accepted: str = defaults["accepted"],
    ):
        """Trains one model type on one tier and registers the policy that the gate accepts."""
        base = compose.artifact(base_uri, ArtifactKind.POLICY)
        champion = compose.artifact(champion_uri, ArtifactKind.POLICY)
        dataset = prepare(
            compose, model_type=model_type, world=world, seed=seed, threshold=threshold, accepted=accepted
        )
        train_and_register(
            compose, model_type, dataset=dataset, base=base, champion=champion, seed=seed, min_gain=min_gain
        )

    return post_training


def define_from_data(compose: Composer) -> GraphComponent:
    """The same from a data set that is there: what is left to do where an execution lost its machines after it."""
    tier, defaults = compose.settings.tier, compose.settings.defaults
    base_policy = compose.settings.uri("base_uri", tier)

    @pipeline("post-training")
    def post_training(
        dataset_uri: str,
        champion_uri: str,
        base_uri: str = base_policy,
        model_type: str = defaults["model_type"],
        night: str = defaults["night"],
        seed: int = defaults["seed"],
        min_gain: float = defaults["min_gain"],
    ):
        """Trains one model type on one tier on data that is there, and registers the policy that the gate accepts."""
        train_and_register(
            compose,
            model_type,
            dataset=compose.artifact(dataset_uri, ArtifactKind.DATASET),
            base=compose.artifact(base_uri, ArtifactKind.POLICY),
            champion=compose.artifact(champion_uri, ArtifactKind.POLICY),
            seed=seed,
            min_gain=min_gain,
        )

    return post_training


def train_and_register(compose: Composer, model_type: PipelineParameterChannel, **trained: Any) -> None:
    """What is left once the data set is there; `trained` goes to `train`."""
    evaluation = train(compose, **trained)
    with dsl.If(evaluation.outputs["gate_margin"] >= 0.0, name="accepted"):
        policy, evidence = evaluation.outputs["accepted_policy"], evaluation.outputs["report"]
        register(compose, compose.settings.tier, policy, evidence, model_type)

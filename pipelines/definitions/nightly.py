"""Nightly: all eight stages, the accepted policy handed down from Bronze to Silver to Gold.

... -> evaluation -> [gate] -> register_bronze
                       |
                       +-> distill_silver -> [gate] -> register_silver
                                               |
                                               +-> distill_gold -> [gate] -> register_gold
"""

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from pipelines.definitions.composer import Composer, pipeline
from pipelines.definitions.tasks import distill, prepare, register, train


def define(compose: Composer) -> GraphComponent:
    settings, defaults = compose.settings, compose.settings.defaults
    bronze_policy = settings.uri("base_uri", Tier.BRONZE)
    silver_policy = settings.uri("silver_base_uri", Tier.SILVER)
    gold_policy = settings.uri("gold_base_uri", Tier.GOLD)

    @pipeline("nightly")
    def nightly(
        champion_uri: str,
        silver_champion_uri: str,
        gold_champion_uri: str,
        base_uri: str = bronze_policy,
        silver_base_uri: str = silver_policy,
        gold_base_uri: str = gold_policy,
        model_type: str = defaults["model_type"],
        world: str = defaults["world"],
        night: str = defaults["night"],
        seed: int = defaults["seed"],
        threshold: float = defaults["threshold"],
        min_gain: float = defaults["min_gain"],
        accepted: str = defaults["accepted"],
    ):
        """Trains the largest tier, then hands what was accepted down to the smaller ones, each behind its own gate."""
        base = compose.artifact(base_uri, ArtifactKind.POLICY)
        champion = compose.artifact(champion_uri, ArtifactKind.POLICY)
        dataset = prepare(
            compose, model_type=model_type, world=world, seed=seed, threshold=threshold, accepted=accepted
        )
        evaluation = train(compose, dataset=dataset, base=base, champion=champion, seed=seed, min_gain=min_gain)
        with dsl.If(evaluation.outputs["gate_margin"] >= 0.0, name="bronze accepted"):
            accepted = evaluation.outputs["accepted_policy"]
            register(compose, Tier.BRONZE, accepted, evaluation.outputs["report"], model_type)
            silver = distill(
                compose,
                Tier.SILVER,
                dataset=dataset,
                teacher=accepted,
                student_uri=silver_base_uri,
                champion_uri=silver_champion_uri,
                seed=seed,
            )
            with dsl.If(silver.outputs["quality_margin"] >= 0.0, name="silver accepted"):
                student = silver.outputs["policy"]
                register(compose, Tier.SILVER, student, silver.outputs["report"], model_type)
                gold = distill(
                    compose,
                    Tier.GOLD,
                    dataset=dataset,
                    teacher=student,
                    student_uri=gold_base_uri,
                    champion_uri=gold_champion_uri,
                    seed=seed,
                )
                with dsl.If(gold.outputs["quality_margin"] >= 0.0, name="gold accepted"):
                    register(compose, Tier.GOLD, gold.outputs["policy"], gold.outputs["report"], model_type)

    return nightly

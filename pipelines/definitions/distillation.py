"""Distillation: one hop, from a tier's policy to the student of the tier below.

traces -> data_validation -> distill_TIER -> [gate] -> register_TIER
"""

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.shared.contracts.stage import ArtifactKind
from pipelines.definitions.composer import Composer, pipeline
from pipelines.definitions.tasks import distill, register


def define(compose: Composer) -> GraphComponent:
    tier, defaults = compose.settings.tier, compose.settings.defaults
    student_policy = compose.settings.uri("student_uri", tier)

    @pipeline("distillation")
    def distillation(
        traces_uri: str,
        teacher_uri: str,
        champion_uri: str,
        student_uri: str = student_policy,
        model_type: str = defaults["model_type"],
        night: str = defaults["night"],
        seed: int = defaults["seed"],
        accepted: str = defaults["accepted"],
    ):
        """Distils the teacher into one tier's student and registers it if it keeps the teacher's quality."""
        traces = compose.artifact(traces_uri, ArtifactKind.TRAJECTORIES)
        validation = compose.task("data_validation", "data_validation", verified=traces, accepted=accepted)
        student = distill(
            compose,
            tier,
            dataset=validation.outputs["dataset"],
            teacher=compose.artifact(teacher_uri, ArtifactKind.POLICY),
            student_uri=student_uri,
            champion_uri=champion_uri,
            seed=seed,
        )
        with dsl.If(student.outputs["quality_margin"] >= 0.0, name="accepted"):
            register(compose, tier, student.outputs["policy"], student.outputs["report"], model_type)

    return distillation

"""Runs of tasks that more than one DAG holds."""

from kfp.dsl.pipeline_channel import PipelineArtifactChannel, PipelineParameterChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from pipelines.definitions.composer import Composer


def prepare(
    compose: Composer,
    *,
    model_type: PipelineParameterChannel,
    world: PipelineParameterChannel,
    seed: PipelineParameterChannel,
    threshold: PipelineParameterChannel,
    accepted: PipelineParameterChannel,
) -> PipelineArtifactChannel:
    """The stages up to the data set, which is returned."""
    generation = compose.task(
        "trajectory_generation", "trajectory_generation", model_type=model_type, world=world, seed=seed
    )
    verification = compose.task(
        "verification", "verification", trajectories=generation.outputs["trajectories"], threshold=threshold
    )
    verified = verification.outputs["verified"]
    validation = compose.task("data_validation", "data_validation", verified=verified, accepted=accepted)
    return validation.outputs["dataset"]


def train(
    compose: Composer,
    *,
    dataset: PipelineArtifactChannel,
    base: PipelineArtifactChannel,
    champion: PipelineArtifactChannel,
    seed: PipelineParameterChannel,
    min_gain: PipelineParameterChannel,
) -> PipelineTask:
    """The stages from the data set to the gate; returns the evaluation."""
    srl = compose.task("srl", "srl", dataset=dataset, policy=base, seed=seed)
    rlvr = compose.task("rlvr", "rlvr", dataset=dataset, policy=srl.outputs["policy"], seed=seed)
    return compose.task(
        "evaluation",
        "evaluation",
        dataset=dataset,
        base=base,
        srl=srl.outputs["policy"],
        candidate=rlvr.outputs["policy"],
        champion=champion,
        min_gain=min_gain,
        seed=seed,
    )


def distill(
    compose: Composer,
    tier: Tier,
    *,
    dataset: PipelineArtifactChannel,
    teacher: PipelineArtifactChannel,
    student_uri: PipelineParameterChannel,
    champion_uri: PipelineParameterChannel,
    seed: PipelineParameterChannel,
) -> PipelineTask:
    """One hop, to the student of `tier`."""
    return compose.task(
        f"distill_{tier}",
        "distillation",
        dataset=dataset,
        teacher=teacher,
        student=compose.artifact(student_uri, ArtifactKind.POLICY),
        champion=compose.artifact(champion_uri, ArtifactKind.POLICY),
        seed=seed,
        tier=tier,
    )


def register(
    compose: Composer,
    tier: Tier,
    policy: PipelineArtifactChannel,
    evidence: PipelineArtifactChannel,
    model_type: PipelineParameterChannel,
) -> PipelineTask:
    """The policy as the tier's next version, with the report that speaks for it."""
    return compose.task(
        f"register_{tier}", "registration", policy=policy, evidence=evidence, model_type=model_type, tier=tier
    )

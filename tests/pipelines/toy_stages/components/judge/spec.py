"""Judge: a policy from the seeds, and how far their number is above the bar."""

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class JudgeConfig(StageConfig):
    bar: float = 2
    """Seeds below which the gate stays shut."""


SPEC = StageSpec(
    name="judge",
    config=JudgeConfig,
    inputs={"seeds": ArtifactKind.TRAJECTORIES},
    outputs={"policy": ArtifactKind.POLICY},
    scalars={"margin": float},
    job=Job.TRAINING,
    image="data",
)

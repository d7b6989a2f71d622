"""Grow: writes `size` seeds."""

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class GrowConfig(StageConfig):
    size: int = 3
    """Seeds to write."""
    fail: bool = False
    """Whether to end in an error."""


SPEC = StageSpec(
    name="grow", config=GrowConfig, outputs={"seeds": ArtifactKind.TRAJECTORIES}, job=Job.PROCESSING, image="data"
)

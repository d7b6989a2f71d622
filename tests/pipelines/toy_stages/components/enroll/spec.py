"""Enroll: one line for one policy in the file that TOY_REGISTRY names, however often it is asked."""

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class EnrollConfig(StageConfig):
    name: str = "toy"
    """What the policy is enrolled as."""


SPEC = StageSpec(
    name="enroll",
    config=EnrollConfig,
    inputs={"policy": ArtifactKind.POLICY, "evidence": ArtifactKind.REPORT},
    parameters=(),
    job=Job.PROCESSING,
    image="data",
)

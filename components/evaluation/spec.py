"""Evaluation: the candidate against what serves now, on scenarios that nothing was trained on.

Base, SRL, candidate and champion answer the same held-out scenarios, greedily and sampled; a checker that is never the
reward scores them. The gate's one scalar is `gate_margin`, the smallest distance of a criterion from its bound: the
candidate is accepted where it is not negative.

    python -m components evaluation --config FILE --input dataset=DIR --input base=DIR --input srl=DIR \
        --input candidate=DIR --input champion=DIR --output accepted_policy=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class EvaluationConfig(StageConfig):
    min_gain: float = 0.01
    """What the candidate must gain on the champion, as mean held-out score, by the lower confidence bound."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of every interval."""
    resamples: int = Field(default=2000, ge=200)
    """Bootstrap resamples of the held-out scenarios."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sampled pass."""


SPEC = StageSpec(
    name="evaluation",
    config=EvaluationConfig,
    inputs={
        "dataset": ArtifactKind.DATASET,
        "base": ArtifactKind.POLICY,
        "srl": ArtifactKind.POLICY,
        "candidate": ArtifactKind.POLICY,
        "champion": ArtifactKind.POLICY,
    },
    outputs={"accepted_policy": ArtifactKind.POLICY},
    scalars={"gate_margin": float},
    parameters=("min_gain", "seed"),
    job=Job.PROCESSING,
    image="training",
)

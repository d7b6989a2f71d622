"""Registration: one accepted policy becomes one version, once, however often it is asked for.

The registry is MLflow's (MLFLOW_TRACKING_URI names it) or SageMaker's (SRL_RLVR_REGISTRY=sagemaker://...). A version is
identified by the policy's digest: registering the same policy again returns the version that is there. The model card is
written from the run's facts.

    python -m components registration --config FILE --input policy=DIR --input evidence=DIR --output report=DIR
"""

from enum import StrEnum

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class Promotion(StrEnum):
    """Who makes a registered version the champion."""

    AUTO = "auto"
    MANUAL = "manual"


class RegistrationConfig(StageConfig):
    model_type: str = "npc_dialogue"
    tier: Tier = Tier.BRONZE
    promotion: Promotion = Promotion.AUTO
    """`auto` moves the champion alias at once; `manual` leaves the version as challenger for a person."""


SPEC = StageSpec(
    name="registration",
    config=RegistrationConfig,
    inputs={"policy": ArtifactKind.POLICY, "evidence": ArtifactKind.REPORT},
    parameters=("model_type",),
    job=Job.PROCESSING,
    image="data",
)

"""Data validation: what may be trained on, and what may only be tested on.

Schema, ranges, duplicates and contamination between splits are checked; splits are cut between scenario groups. What is
refused goes to quarantine with its reason: kept + quarantined == read, always.

    python -m components data_validation --config FILE --input verified=DIR --output dataset=DIR --output report=DIR
"""

from pydantic import Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class DataValidationConfig(StageConfig):
    min_train: int = Field(default=100, ge=1)
    """Verified training trajectories below which the night stops (specification: Gold 100, Silver 200, Bronze 500)."""
    min_test: int = Field(default=100, ge=1)
    """Held-out scenarios below which no evaluation could be trusted."""
    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    """Share of records refused above which the source itself is suspect and the stage fails."""
    near_duplicate: float = Field(default=0.97, gt=0, le=1)
    """Likeness of two completions to one and the same prompt from which the later one is a near-duplicate."""


SPEC = StageSpec(
    name="data_validation",
    config=DataValidationConfig,
    inputs={"verified": ArtifactKind.TRAJECTORIES},
    outputs={"dataset": ArtifactKind.DATASET},
    parameters=(),
    job=Job.PROCESSING,
    image="data",
)

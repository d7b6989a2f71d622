"""Trajectory generation: three models write expert trajectories together.

A context retriever finds what the world knows about the scenario, a teacher planner writes numbered steps, a verifier
scores them; what falls short goes back to the teacher with the verifier's reasons, at most `max_attempts` times.

    python -m components trajectory_generation --config FILE --output trajectories=DIR --output report=DIR
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class TeacherKind(StrEnum):
    """Who writes the expert's steps."""

    SCRIPTED = "scripted"
    """A deterministic expert over the world's rules, with the slips of real teachers: needs no network."""
    OPENAI = "openai"
    """Any endpoint of OpenAI's chat completions API."""


class TeacherConfig(BaseModel):
    """The teacher and how to reach it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: TeacherKind = TeacherKind.SCRIPTED
    base_url: str | None = None
    """Root of the API, for example https://openrouter.ai/api/v1; needed for `openai`."""
    model: str | None = None
    """The endpoint's model name; needed for `openai`."""
    key_variable: str | None = "OPENROUTER_API_KEY"
    """Environment variable that holds the key, which is never configuration; none for an endpoint without one."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=600, ge=1)
    timeout_s: float = Field(default=60, gt=0)
    max_retries: int = Field(default=5, ge=0)
    """Times that a request is sent again after 429, 5xx or a broken connection, with growing pauses."""
    concurrency: int = Field(default=8, ge=1)
    """Requests in flight at once."""


class Counts(BaseModel):
    """How many distinct scenarios to draw for each split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int = Field(default=1500, ge=1)
    validation: int = Field(default=100, ge=1)
    test: int = Field(default=1000, ge=1)


class TrajectoryGenerationConfig(StageConfig):
    model_type: str = "npc_dialogue"
    """What kind of model the night trains; one of the trainer factory's."""
    world: str = "wrackmere"
    """The folder of configs/worlds/ to draw scenarios from."""
    counts: Counts = Counts()
    """Scenarios to draw; only train and validation go to the teacher."""
    teacher: TeacherConfig = TeacherConfig()
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at one scenario, the first included."""
    retrieval_depth: int = Field(default=4, ge=1)
    """Documents that the retriever puts before the teacher."""


SPEC = StageSpec(
    name="trajectory_generation",
    config=TrajectoryGenerationConfig,
    outputs={"trajectories": ArtifactKind.TRAJECTORIES},
    parameters=("model_type", "world", "seed"),
    job=Job.PROCESSING,
    image="data",
)

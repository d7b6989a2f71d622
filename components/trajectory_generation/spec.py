"""Trajectory generation: three models write expert trajectories together.

A context retriever finds what the world knows about the scenario, a teacher planner writes numbered steps, a verifier
scores them; what falls short goes back to the teacher with the verifier's reasons, at most `max_attempts` times. Where
there is more than one way to teach, a contextual bandit chooses among them and learns from night to night.

    python -m components trajectory_generation --config FILE --output trajectories=DIR --output report=DIR
"""

from pydantic import BaseModel, ConfigDict, Field

from components.shared.collaboration.examples_config import ExamplesConfig
from components.shared.collaboration.planner import PlannerState, Strategy
from components.shared.collaboration.teacher_config import BudgetConfig, TeacherConfig
from components.shared.contracts.stage import ArtifactKind, Job, StageConfig, StageSpec


class Counts(BaseModel):
    """How many distinct scenarios to draw for each split."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: int = Field(default=1500, ge=1)
    validation: int = Field(default=300, ge=1)
    test: int = Field(default=1000, ge=1)
    practice: int = Field(default=4500, ge=0)
    """Further training scenarios, as many of them as the world yields: no teacher answers them, RLVR and distillation
    practise on them. On the taught ones alone a student comes to know its teacher's answers by heart."""


class PlannerConfig(BaseModel):
    """What the teacher planner may choose between, teachers aside; one of each leaves nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategies: tuple[Strategy, ...] = Field(default=(Strategy.EXAMPLES,), min_length=1)
    depths: tuple[int, ...] = ()
    """Numbers of documents to put before the teacher; none for `retrieval_depth` alone."""
    step_budgets: tuple[int | None, ...] = Field(default=(None,), min_length=1)
    """Most steps that a teacher may write; null for as many as it likes."""
    round_size: int = Field(default=128, ge=1)
    """Scenarios that are planned together, from what the rounds before taught."""
    score_per_usd: float = Field(default=10.0, ge=0)
    """Score that one USD is worth: the reward is the verifier's score less this times the cost."""
    memory: str | None = None
    """Folder or s3:// prefix that keeps what is learnt from night to night; none to keep it in the report alone."""
    state: PlannerState | None = None
    """What earlier nights learnt, where `memory` has none: the planner.json of a report; none to begin anew."""


class TrajectoryGenerationConfig(StageConfig):
    model_type: str = "npc_dialogue"
    """What kind of model the night trains; one of the trainer factory's."""
    world: str = "wrackmere"
    """The folder of configs/worlds/ to draw scenarios from."""
    counts: Counts = Counts()
    """Scenarios to draw; only train and validation go to the teacher."""
    examples: ExamplesConfig = ExamplesConfig()
    """What the training scenarios are made of, and what is stressed among them."""
    teacher: TeacherConfig = TeacherConfig()
    more_teachers: tuple[TeacherConfig, ...] = ()
    """Further teachers that the planner may choose."""
    planner: PlannerConfig = PlannerConfig()
    budget: BudgetConfig = BudgetConfig()
    """What the run may use at most; it ends early, and in good order, where that is not enough."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at one scenario, the first included."""
    retrieval_depth: int = Field(default=4, ge=1)
    """Documents that the retriever puts before the teacher."""
    knowledge: str | None = None
    """Where the documents are: a folder, or the address of a context service; none for the world's own lore."""
    embeddings: bool = False
    """Whether sentence embeddings find documents too, beside BM25; needs the extra `embeddings`."""


SPEC = StageSpec(
    name="trajectory_generation",
    config=TrajectoryGenerationConfig,
    outputs={"trajectories": ArtifactKind.TRAJECTORIES},
    parameters=("model_type", "world", "seed"),
    job=Job.PROCESSING,
    image="data",
)

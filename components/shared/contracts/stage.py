"""What a stage is: a typed configuration, named inputs and outputs, and the kind of job that runs it.

A spec is light: compiling a DAG reads every spec and imports nothing that trains.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from components.shared.contracts.environment import Strategy
from components.shared.contracts.records import Record


class ArtifactKind(StrEnum):
    """What lies in an artifact's folder; its manifest says the same word."""

    TRAJECTORIES = "trajectories"
    """trajectories.jsonl, scenarios.jsonl, quarantine.jsonl"""
    DATASET = "dataset"
    """{train,validation}.jsonl of trajectories, scenarios/{train,validation,test}.jsonl, quarantine.jsonl"""
    POLICY = "policy"
    """A causal language model: config.json, model.safetensors or adapter_model.safetensors, tokenizer files."""
    REPORT = "report"
    """report.json, metrics.jsonl, samples.jsonl and whatever the stage draws."""
    CHECKPOINT = "checkpoint"
    """One process's part of a training state: state.json, tensors.safetensors. Never a stage's input or output."""


class Job(StrEnum):
    """Which kind of SageMaker job runs the stage."""

    PROCESSING = "processing"
    TRAINING = "training"


class StageConfig(BaseModel):
    """Base of every stage's configuration: defaults live in the code, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random in the stage; numpy's generators take no other."""

    def refuses(self, strategy: Strategy) -> str | None:
        """Why several processes cannot do the stage's work by this strategy, and what to do; none where they can."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """The stage as the compilers see it."""

    name: str
    config: type[StageConfig]
    inputs: Mapping[str, ArtifactKind] = field(default_factory=dict)
    outputs: Mapping[str, ArtifactKind] = field(default_factory=dict)
    """Artifacts beside `report`, which every stage writes."""
    scalars: Mapping[str, type] = field(default_factory=dict)
    """Numbers that the DAG itself reads, for a condition."""
    parameters: tuple[str, ...] = ("seed",)
    """Configuration fields that whoever starts an execution may set; the rest is compiled in."""
    job: Job
    spread: bool = False
    """Whether several processes can do its work together, by the job's strategy; else one does."""
    image: str
    """Folder of containers/ whose image runs it: data, training or serving."""

    @property
    def all_outputs(self) -> dict[str, ArtifactKind]:
        return {**self.outputs, "report": ArtifactKind.REPORT}


class Report(Record):
    """What a stage has to say when it is done; becomes report.json."""

    stage: str
    summary: str
    """One line for a person."""
    scalars: dict[str, float] = {}
    """The numbers that the spec's `scalars` promise to the DAG."""
    metrics: dict[str, float] = {}
    """Final numbers, each measured by this run."""
    details: dict[str, JsonValue] = {}
    """Tables and counts for the report's reader."""
    artifacts: dict[str, dict[str, JsonValue]] = {}
    """Facts to write into an output's manifest, by output name: what the next stage needs before it opens the files."""

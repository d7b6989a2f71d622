"""What goes over the wire between a context service and who asks it."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.shared.collaboration.world import Document, Fact
from components.shared.contracts.records import Scenario


class Query(BaseModel):
    """Either words, or a scenario whose prompt and state say what to look for."""

    model_config = ConfigDict(extra="forbid")

    query: str | None = Field(default=None, min_length=1, max_length=8192)
    scenario: Scenario | None = None
    depth: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _one(self) -> "Query":
        if (self.query is None) == (self.scenario is None):
            raise ValueError("give either query or scenario")
        return self


class Found(BaseModel):
    id: str
    score: float | None = None
    """Only comparable within one answer; none for a scenario's documents."""


class Answer(BaseModel):
    documents: list[Found]


class KnownDocument(BaseModel):
    document: Document
    facts: tuple[Fact, ...]

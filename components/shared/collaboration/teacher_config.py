"""Teachers as a configuration names them: who answers, at what price, and how hard it may be asked."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class TeacherKind(StrEnum):
    """Who writes the expert's steps."""

    SCRIPTED = "scripted"
    """A deterministic expert over the world's rules, with the slips of real teachers: needs no network."""
    OPENAI = "openai"
    """Any endpoint of OpenAI's chat completions API."""


class TeacherConfig(BaseModel):
    """A teacher and how to reach it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: TeacherKind = TeacherKind.SCRIPTED
    base_url: str | None = None
    """Root of the API, for example https://openrouter.ai/api/v1; needed for `openai`."""
    model: str | None = None
    """The endpoint's model name; needed for `openai`."""
    key_variable: str | None = "OPENROUTER_API_KEY"
    """Environment variable that holds the key, which is never configuration; none for an endpoint without one."""
    key_secret: str | None = None
    """Name or ARN of the AWS Secrets Manager secret that holds the key, asked where the variable is not set."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=600, ge=1)
    seeded: bool = True
    """Whether the endpoint takes the parameter `seed`."""
    timeout_s: float = Field(default=60, gt=0)
    """Seconds that one request may take in all, however slowly its answer trickles in."""
    max_retries: int = Field(default=5, ge=0)
    """Times that a request is sent again after 429, 5xx or a broken connection, with growing pauses."""
    concurrency: int = Field(default=8, ge=1)
    """Most requests in flight at once; the number in use adapts to what the endpoint bears."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """The endpoint's rate limit, where it has one."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    usd_per_million_prompt_tokens: float = Field(default=0.0, ge=0)
    usd_per_million_completion_tokens: float = Field(default=0.0, ge=0)

    @property
    def name(self) -> str:
        """What trajectories and the planner's arms say of it."""
        return self.model or str(self.kind)

    @property
    def priced(self) -> bool:
        return self.usd_per_million_prompt_tokens > 0 or self.usd_per_million_completion_tokens > 0

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request of this size costs."""
        return (
            prompt_tokens * self.usd_per_million_prompt_tokens
            + completion_tokens * self.usd_per_million_completion_tokens
        ) / 1e6


class BudgetConfig(BaseModel):
    """What one run may use, answers replayed from the record included; none for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, ge=1)

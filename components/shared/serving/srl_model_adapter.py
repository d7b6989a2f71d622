"""One interface over everything that serves a policy: load, unload, list, generate, health.

One module a back end beside this one: vllm_server, sagemaker_server, triton_server, in_process_server. Loading is
idempotent, since an adapter's name carries its content's hash: a name that is resident is that adapter. No back end tries
a request twice; the router is the only retry loop. Replacing what serves is hot_swap's work.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from components.shared.contracts.errors import PipelineError
from components.shared.serving.adapters import Adapter, ServedBase


class Unavailable(PipelineError):
    """The server could not answer: out of reach, too slow, broken, or without the model. Another one might."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """What a model is asked."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The turns' contents joined by blanks: what a policy reads that was trained on plain prompts."""
        return " ".join(message.content for message in self.messages)


def ask(prompt: str, max_tokens: int) -> ChatRequest:
    """A greedy request of one turn."""
    return ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=max_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A piece of an answer; the last one says why it ended and what it took."""

    text: str
    finish_reason: str | None = None
    """`stop` or `length`, on the last piece alone."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer."""

    model: str
    """The adapter or base that gave it, as the server says."""
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class ModelServer(ABC):
    """A server of one base model and its adapters. Methods raise Unavailable, and UsageError for what can never work."""

    base: ServedBase
    """What it was started on; its own name is always among the models."""

    @abstractmethod
    async def load(self, adapter: Adapter) -> None:
        """Make `adapter` resident under its name. A loss of the response is not a loss of the load: the list decides."""

    @abstractmethod
    async def unload(self, name: str) -> None:
        """Take an adapter out; one that is not resident is no error."""

    @abstractmethod
    async def list_adapters(self) -> frozenset[str]:
        """Names of the resident adapters, without the base."""

    @abstractmethod
    async def generate(self, model: str, request: ChatRequest) -> Answer:
        """The answer of an adapter or the base, by name."""

    async def stream(self, model: str, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece; in one piece where the back end cannot do better."""
        answer = await self.generate(model, request)
        yield Delta(
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )

    @abstractmethod
    async def health(self) -> None:
        """Return where it could answer now, else raise Unavailable."""

    async def close(self) -> None:
        """Release connections, threads and memory."""
        return

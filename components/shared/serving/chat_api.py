"""OpenAI's chat completions API as the router speaks it: requests in, completions, chunks and errors out."""

import json
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Scenario
from components.shared.serving.router_config import LimitsConfig
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, Message


class Part(BaseModel):
    """A piece of a turn; only text is served."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions. What would change the answer and is not supported is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    """MODEL_TYPE, and the router chooses; MODEL_TYPE@TIER, and it does not."""
    messages: list[Turn] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Also the session, where no X-Session-Id header is sent."""
    metadata: dict[str, str] | None = None
    scenario: Scenario | None = None
    """The scenario that the prompt puts, where it is known: its answer is then scored."""
    max_cost_usd: float | None = Field(default=None, gt=0)
    """A cost cap for this request, below the router's own."""
    layers: list[int] | None = None
    """Layers to run; for POST /v1/layers."""

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError("at most 4 stops")
        return stop

    def request(self, limits: LimitsConfig) -> ChatRequest:
        """What a model is asked. Raises UsageError above the limits."""
        wanted = self.max_completion_tokens or self.max_tokens or limits.max_tokens
        if wanted > limits.max_tokens:
            raise UsageError(f"max_tokens = {wanted}: at most {limits.max_tokens} are served")
        if len(self.messages) > limits.messages:
            raise UsageError(f"{len(self.messages)} messages: at most {limits.messages} are served")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        turns = ((turn.role.replace("developer", "system"), turn.text) for turn in self.messages)
        return ChatRequest(
            messages=tuple(Message(role=role, content=text) for role, text in turns),
            max_tokens=wanted,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=stop,
        )


def parse_body(raw: bytes) -> ChatBody:
    """The body. Raises UsageError naming the field and its fault, without its value."""
    try:
        return ChatBody.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise UsageError(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}") from error


def completion(request_id: str, answer: Answer) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
        "usage": usage(answer.prompt_tokens, answer.completion_tokens),
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


class Chunks:
    """The events of one stream."""

    def __init__(self, request_id: str, model: str):
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def text(self, text: str, *, first: bool = False) -> bytes:
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def end(self, finish_reason: str) -> bytes:
        return self._event([{"index": 0, "delta": {}, "finish_reason": finish_reason}])

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        return self._event([], usage=usage(prompt_tokens, completion_tokens))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self._head, "choices": choices, **more})


DONE = b"data: [DONE]\n\n"


def event(value: JsonValue | dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}

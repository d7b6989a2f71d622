"""One endpoint of OpenAI's chat completions API: a text comes back, or an error that says whose fault it was.

Three kinds of failure are kept apart: an answer that is no use (UnreadableAnswer: this attempt is lost), a request that
will never work (UsageError: key, model or address), and an endpoint that stays out of reach (PipelineError).
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from components.shared.collaboration.teacher_planner import UnreadableAnswer
from components.shared.contracts.errors import PipelineError, UsageError

PATIENCE = 10
"""Requests refused, and none answered, after which the settings are taken to be at fault, not the requests."""


class Endpoint:
    """A model behind a base URL. Retries on 429, 5xx and broken connections are the client's, with its back-off."""

    def __init__(
        self,
        *,
        base_url: str | None,
        model: str | None,
        key_variable: str | None,
        temperature: float,
        max_tokens: int,
        timeout_s: float,
        max_retries: int,
    ):
        """`key_variable` names the environment variable with the key; none for an endpoint that asks for no key."""
        for name, value in (("base_url", base_url), ("model", model)):
            if not value:
                raise UsageError(f"teacher.{name} is not set: an openai teacher needs it")
        self.base_url, self.model, self._key_variable = str(base_url), str(model), key_variable
        self._key = _key(key_variable)
        self._options = {"temperature": temperature, "max_tokens": max_tokens}
        self._structured = True
        self._answered = False
        self._refusals = 0
        self.spent: Counter[str] = Counter()
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=self._key, timeout=timeout_s, max_retries=max_retries
        )

    async def complete(self, messages: Sequence[dict[str, str]], schema: dict[str, Any]) -> str:
        """The model's answer, held to `schema` where the endpoint has structured outputs."""
        if self._structured:
            shape = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
            try:
                return self._text(await self._request(messages, response_format=shape))
            except _Refused as refused:
                answer = await self._plain(messages, refused)
                self._structured = False
                return answer
        return await self._plain(messages)

    async def close(self) -> None:
        await self._client.close()

    async def _plain(self, messages: Sequence[dict[str, str]], before: Exception | None = None) -> str:
        try:
            return self._text(await self._request(messages))
        except _Refused as refused:
            self._refusals += 1
            fault = f"{self.base_url} refuses the request: {before or refused}"
            if self._refusals >= PATIENCE and not self._answered:
                raise UsageError(f"{fault}, as it did all {PATIENCE} before: mend the teacher's settings") from refused
            raise UnreadableAnswer(fault) from refused

    async def _request(self, messages: Sequence[dict[str, str]], **shape: Any) -> ChatCompletion:
        self.spent["requests"] += 1
        request: dict[str, Any] = {"model": self.model, "messages": messages, **self._options, **shape}
        try:
            return await self._client.chat.completions.create(**request)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            key = f"the key in {self._key_variable}" if self._key_variable else "a request without a key"
            raise UsageError(f"{self.base_url} refuses {key} ({error.status_code}): set a valid one") from None
        except openai.NotFoundError as error:
            raise UsageError(
                f"{self.base_url} has no model {self.model!r} (404): mend teacher.base_url or teacher.model"
            ) from error
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            what = f"status {error.status_code}" if isinstance(error, openai.APIStatusError) else str(error).rstrip(".")
            raise PipelineError(
                f"teacher {self.base_url} stays out of reach ({what}) after {self._client.max_retries} retries: "
                f"check the endpoint, lower teacher.concurrency, or set teacher.kind to scripted"
            ) from error
        except openai.APIStatusError as error:
            raise _Refused(self._redacted(f"status {error.status_code}: {error.message}"[:300])) from error
        except (openai.APIError, ValueError) as error:
            raise UnreadableAnswer(f"the response is not a chat completion: {error}"[:300]) from error

    def _text(self, completion: ChatCompletion) -> str:
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise UnreadableAnswer("the response is not a chat completion", str(completion)[:2000])
        self._answered = True
        if completion.usage:
            self.spent["prompt_tokens"] += completion.usage.prompt_tokens
            self.spent["completion_tokens"] += completion.usage.completion_tokens
        choice = completion.choices[0]
        if choice.finish_reason == "length":
            limit = self._options["max_tokens"]
            raise UnreadableAnswer(f"cut off at teacher.max_tokens = {limit}", choice.message.content)
        if not choice.message.content:
            raise UnreadableAnswer(f"empty answer ({choice.message.refusal or choice.finish_reason})")
        return choice.message.content

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***")


class _Refused(Exception):
    """The endpoint took the request for a bad one."""


def _key(variable: str | None) -> str:
    if variable is None:
        return "none"
    key = os.environ.get(variable)
    if not key:
        raise UsageError(f"environment variable {variable} holds no key for the teacher: export it")
    return key

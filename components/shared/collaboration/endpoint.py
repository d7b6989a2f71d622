"""One endpoint of OpenAI's chat completions API: a text comes back, or an error that says whose fault it was.

Four kinds of failure are kept apart: an answer that is no use (UnreadableAnswer: this attempt is lost), a request that
found the endpoint out of reach (OutOfReach: this scenario is lost), a request that will never work (UsageError: key, model
or address), and a budget without room (BudgetExhausted). What was answered once is read from the record instead.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx2
import openai
from pydantic import BaseModel, Field, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from components.shared.collaboration.budget import Bill, Budget, Cost
from components.shared.collaboration.limiter import Limiter, Overloaded
from components.shared.collaboration.request_cache import Recorded, RequestCache, request_key
from components.shared.collaboration.teacher_config import TeacherConfig
from components.shared.collaboration.teacher_key import teacher_key
from components.shared.collaboration.teacher_planner import OutOfReach, UnreadableAnswer
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.storage.artifacts import canonical_json

PATIENCE = 10
"""Requests refused, and none answered, after which the settings are taken to be at fault, not the requests."""
TRANSIENT = {408, 409, 425, 429}
"""Statuses below 500 after which the same request may succeed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LONGEST_RETRY_AFTER_S = 300.0
"""A Retry-After above it counts as out of reach."""
OVERHEAD_TOKENS = 16
"""What a chat template adds to a message, at most."""


class ReplyMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class ReplyChoice(BaseModel):
    message: ReplyMessage
    finish_reason: str | None = None


class ReplyUsage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class Reply(BaseModel):
    """What is read of a chat completion; the rest differs from server to server."""

    choices: list[ReplyChoice] = Field(min_length=1)
    usage: ReplyUsage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """A request as it is sent and known."""

    key: str
    body: bytes
    most: Cost
    """The most that its answer can cost."""


class Endpoint:
    """A model behind a base URL, asked no faster than it bears and no more than the budget allows."""

    def __init__(self, config: TeacherConfig, *, budget: Budget | None = None, cache: RequestCache | None = None):
        for name, value in (("base_url", config.base_url), ("model", config.model)):
            if not value:
                raise UsageError(f"teacher.{name} is not set: an openai teacher needs it")
        self.config, self.base_url, self.model = config, str(config.base_url), str(config.model)
        self.budget = budget or Budget()
        if self.budget.limit.usd is not None and not config.priced:
            raise UsageError(
                f"teacher {self.model} has no price, so a budget in USD cannot hold it: set "
                f"usd_per_million_prompt_tokens and usd_per_million_completion_tokens, or a budget in tokens"
            )
        self.cache = cache or RequestCache()
        self.spent: Counter[str] = Counter()
        self.limiter = Limiter(
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
        )
        # A relative address is joined to the base anew for each request, 0.2 ms of CPU.
        self._address = f"{self.base_url.rstrip('/')}/chat/completions"
        self._key = teacher_key(config.key_variable, config.key_secret)
        self._structured = True
        self._answered = False
        self._refusals = 0
        self._asking: dict[str, asyncio.Task[Recorded]] = {}
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=self._key or "none",
            timeout=config.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(),
        )

    async def complete(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], *, seed: int, bill: Bill
    ) -> str:
        """The model's answer, held to `schema` where the endpoint has structured outputs.

        `seed` tells apart two askings of the same question. What it costs is added to `bill`.
        """
        if self._structured:
            shape = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
            try:
                return self._text(await self._request(messages, seed, bill, response_format=shape))
            except _Refused as refused:
                answer = await self._plain(messages, seed, bill, refused)
                self._structured = False
                return answer
        return await self._plain(messages, seed, bill)

    async def close(self) -> None:
        await self._client.close()
        await self.cache.close()

    async def _plain(
        self, messages: Sequence[Mapping[str, str]], seed: int, bill: Bill, before: Exception | None = None
    ) -> str:
        try:
            return self._text(await self._request(messages, seed, bill))
        except _Refused as refused:
            self._refusals += 1
            fault = f"{self.base_url} refuses the request: {before or refused}"
            if self._refusals >= PATIENCE and not self._answered:
                raise UsageError(f"{fault}, as it did all {PATIENCE} before: mend the teacher's settings") from refused
            raise UnreadableAnswer(fault) from refused

    async def _request(self, messages: Sequence[Mapping[str, str]], seed: int, bill: Bill, **shape: Any) -> Reply:
        """The reply, from the record or from the endpoint; the same question from two sides is asked once."""
        question = self._question(messages, seed, shape)
        recorded = self.cache.get(question.key)
        if recorded is not None:
            return self._counted(recorded, question, bill, reserved=None)
        reserved = question.most * (self.cache.sends(question.key) + 1)
        self.budget.reserve(reserved)
        try:
            if question.key not in self._asking:
                self._asking[question.key] = asyncio.create_task(self._send(question))
                self._asking[question.key].add_done_callback(lambda task: self._asking.pop(question.key, None))
            recorded = await self._asking[question.key]
        except BaseException:
            self.budget.settle(reserved, Cost())
            raise
        return self._counted(recorded, question, bill, reserved=reserved)

    def _question(self, messages: Sequence[Mapping[str, str]], seed: int, shape: Mapping[str, Any]) -> _Question:
        """The request; its seed tells it apart also where the endpoint takes none."""
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
            **shape,
        }
        whole = canonical_json({**request, "seed": seed})
        body = whole if self.config.seeded else canonical_json(request)
        return _Question(key=request_key(self.base_url, whole), body=body.encode(), most=self._most(request))

    def _counted(self, recorded: Recorded, question: _Question, bill: Bill, reserved: Cost | None) -> Reply:
        """The reply in a record, paid for: a request that a crash cut off may have cost what it could at most."""
        reply = Reply.model_validate_json(recorded.body) if recorded.status == 200 else None
        cost = question.most * (recorded.sends - 1) + self._cost(reply, question)
        if reserved is None:
            self.budget.reserve(cost)
        self.budget.settle(reserved or cost, cost)
        bill.cost += cost
        self.spent["requests"] += 1
        if reply is None:
            raise _Refused(recorded.body)
        self._answered = True
        if reply.usage:
            self.spent["prompt_tokens"] += reply.usage.prompt_tokens
            self.spent["completion_tokens"] += reply.usage.completion_tokens
        return reply

    async def _send(self, question: _Question) -> Recorded:
        await self.cache.sent(question.key, self.base_url, self.model)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Transient), stop=self._enough, wait=_pause, reraise=True
        )
        try:
            answer: tuple[int, str] = await retrying(self._once, question)
        except _Transient as error:
            raise OutOfReach(
                f"teacher {self.base_url} stays out of reach ({error}) after {self.config.max_retries} retries: "
                f"check the endpoint, lower teacher.concurrency, or set teacher.kind to scripted"
            ) from error
        return await asyncio.shield(self.cache.record(question.key, *answer))

    async def _once(self, question: _Question) -> tuple[int, str]:
        """Status and body of a final answer. Raises _Transient where the same request may still succeed."""
        async with self.limiter.slot():
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    # Not chat.completions.create: it walks through the request by type, 1.5 ms of CPU at 20 KB.
                    response: httpx2.Response = await self._client.post(
                        self._address, cast_to=httpx2.Response, content=question.body
                    )
                body = response.content.decode()
                reply = Reply.model_validate_json(body)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                return self._denied(error)
            except openai.APIStatusError as error:
                if error.status_code in TRANSIENT or error.status_code >= 500:
                    raise _Transient(f"status {error.status_code}", _retry_after(error.response.headers)) from error
                return self._denied(error)
            except TimeoutError as error:
                # Whether an answer that nobody waited for is paid for, only the endpoint knows.
                self.budget.reserve(question.most)
                self.budget.settle(question.most, question.most)
                raise _Transient(f"no answer in {self.config.timeout_s:g} s") from error
            except openai.APIConnectionError as error:
                raise _Transient(str(error.__cause__ or error).rstrip(".")) from error
            except (ValidationError, openai.APIError, ValueError) as error:
                raise _Transient(f"the response is not a chat completion: {str(error).splitlines()[0]}") from error
        if reply.usage:
            self.limiter.used(reply.usage.prompt_tokens + reply.usage.completion_tokens)
        return 200, body

    def _denied(self, error: openai.APIStatusError) -> tuple[int, str]:
        """A refusal of this very request as its final answer; raises where no request will ever work."""
        config, status = self.config, error.status_code
        if status == 401 or (status == 403 and not self._answered):
            source = config.key_variable or config.key_secret
            key = f"the key in {source}" if source else "a request without a key"
            raise UsageError(f"{self.base_url} refuses {key} ({status}): set a valid one") from None
        if status == 402:
            raise PipelineError(f"{self.base_url} asks for payment (402): top up the account and run again") from None
        if status == 404:
            raise UsageError(
                f"{self.base_url} has no model {self.model!r} (404): mend teacher.base_url or teacher.model"
            ) from None
        return status, self._redacted(f"status {status}: {error.message}"[:300])

    def _text(self, reply: Reply) -> str:
        choice = reply.choices[0]
        if choice.finish_reason == "length":
            raise UnreadableAnswer(f"cut off at teacher.max_tokens = {self.config.max_tokens}", choice.message.content)
        if not choice.message.content:
            raise UnreadableAnswer(f"empty answer ({choice.message.refusal or choice.finish_reason})")
        return choice.message.content

    def _most(self, request: Mapping[str, Any]) -> Cost:
        """The most that a request can cost: a token of a prompt is at least one byte."""
        prompt = sum(len(message["content"].encode()) + OVERHEAD_TOKENS for message in request["messages"])
        prompt += len(str(request.get("response_format", "")))
        completion = self.config.max_tokens
        return Cost(usd=self.config.usd(prompt, completion), tokens=prompt + completion)

    def _cost(self, reply: Reply | None, question: _Question) -> Cost:
        """What an answer cost; one that does not say how many tokens it took is taken for the dearest."""
        if reply is None:
            return Cost()
        if reply.usage is None:
            return question.most
        prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
        return Cost(usd=self.config.usd(prompt, completion), tokens=prompt + completion)

    def _enough(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        told = error.retry_after_s if isinstance(error, _Transient) else None
        return state.attempt_number > self.config.max_retries or (told or 0.0) > LONGEST_RETRY_AFTER_S

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _Refused(Exception):
    """The endpoint took the request for a bad one."""


class _Transient(Overloaded):
    """The same request may succeed later."""

    def __init__(self, what: str, retry_after_s: float | None = None):
        super().__init__(what[:300])
        self.retry_after_s = retry_after_s


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the endpoint asked for, else exponential; with jitter, so that nobody marches in
    step. The jitter shapes no result."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Transient) and error.retry_after_s is not None:
        return error.retry_after_s * random.uniform(1.0, 1.1)
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (state.attempt_number - 1))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: Retry-After-Ms, or Retry-After in seconds or as a date (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time())
    except (KeyError, ValueError, TypeError):
        return None

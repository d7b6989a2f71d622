"""An existing rules service behind the interface of `RulesEngine`; it fails closed.

GET  /v1/rules/version   {"version": TEXT}
POST /v1/rules/evaluate  {"scenario": {...}, "facts": [...], "action": {...}} -> findings, as `RuleFindings` has them

An answer is good for `ttl_s` seconds and for the version that it came with; after that the service is asked again, and where
it cannot be reached nothing is judged: an old answer is never taken for a new one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, Field, JsonValue, ValidationError

from components.shared.collaboration.rules_engine import Broken, Findings
from components.shared.contracts.errors import GateError
from components.shared.storage.artifacts import canonical_json

T = TypeVar("T", bound=BaseModel)
KEPT = 10_000
"""Findings that are remembered at most."""


class BrokenRule(BaseModel):
    rule: str
    hard: bool
    reason: str


class RuleFindings(BaseModel):
    """What a rules service says of one case."""

    held: tuple[str, ...] = ()
    broken: tuple[BrokenRule, ...]
    silent: tuple[str, ...] = ()
    score: float = Field(ge=0, le=1)
    version: str
    """Of the rules that it was judged by."""


class RulesVersion(BaseModel):
    version: str = Field(min_length=1)


class RulesClient:
    """Rules that another service holds. Every failure is a GateError: what could not be judged does not pass."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        ttl_s: float = 60.0,
        timeout_s: float = 5.0,
        retries: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.HTTPTransport(retries=retries)
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout_s, transport=transport)
        self._ttl_s, self._clock = ttl_s, clock
        self._version: tuple[float, str] | None = None
        self._found: OrderedDict[str, tuple[float, RuleFindings]] = OrderedDict()

    @property
    def version(self) -> str:
        """The version of the rules in force."""
        if self._version is None or self._version[0] <= self._clock():
            version = self._ask(RulesVersion, "GET", "/v1/rules/version").version
            self._version = (self._clock() + self._ttl_s, version)
        return self._version[1]

    def evaluate(self, variables: Mapping[str, JsonValue]) -> Findings:
        """What the rules say of `variables`: scenario and action as maps, facts as a list of maps."""
        key, version = canonical_json(dict(variables)), self.version
        until, found = self._found.get(key, (0.0, None))
        if found is None or until <= self._clock() or found.version != version:
            found = self._ask(RuleFindings, "POST", "/v1/rules/evaluate", dict(variables))
            self._found[key] = (self._clock() + self._ttl_s, found)
            if len(self._found) > KEPT:
                self._found.popitem(last=False)
        broken = tuple(Broken(rule=b.rule, hard=b.hard, reason=b.reason) for b in found.broken)
        return Findings(held=found.held, broken=broken, silent=found.silent, score=found.score)

    def close(self) -> None:
        self._client.close()

    def _ask(self, shape: type[T], method: str, path: str, body: dict[str, Any] | None = None) -> T:
        try:
            response = self._client.request(method, path, json=body)
            if response.is_error:
                raise GateError(
                    f"rules service {self.url} answers {response.status_code}: mend it, nothing passes unjudged"
                )
            return shape.model_validate_json(response.content)
        except httpx2.HTTPError as error:
            raise GateError(
                f"rules service {self.url} cannot be reached ({error}): start it, nothing passes unjudged"
            ) from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "answer"
            raise GateError(
                f"rules service {self.url}{path} answers otherwise than agreed: {where}: {fault['msg']}"
            ) from error

"""A knowledge base that another service holds, asked by the API of context_service.py; it fails closed."""

from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from components.shared.collaboration.context_api import Answer, Found, KnownDocument
from components.shared.collaboration.context_retriever import Hit
from components.shared.collaboration.world import Document, Fact
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.records import Scenario

T = TypeVar("T", bound=BaseModel)


class ContextClient:
    """A retriever over a wire. Documents are kept once they were read: a knowledge base does not change in a run."""

    waits = True

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10.0, retries: int = 3):
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.HTTPTransport(retries=retries)
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout_s, transport=transport)
        self._known: dict[str, KnownDocument] = {}

    def retrieve(self, query: str, depth: int) -> tuple[Hit, ...]:
        return tuple(Hit(id=f.id, score=f.score or 0.0) for f in self._find({"query": query, "depth": depth}))

    def for_scenario(self, scenario: Scenario, depth: int) -> tuple[Document, ...]:
        found = self._find({"scenario": scenario.model_dump(mode="json"), "depth": depth})
        return tuple(self.document(f.id) for f in found)

    def document(self, id: str) -> Document:
        return self._read(id).document

    def facts_of(self, document: Document) -> tuple[Fact, ...]:
        return self._read(document.id).facts

    def close(self) -> None:
        self._client.close()

    def _find(self, body: dict[str, Any]) -> list[Found]:
        return self._parsed(Answer, self._ask("POST", "/v1/context", body)).documents

    def _read(self, id: str) -> KnownDocument:
        if id not in self._known:
            response = self._ask("GET", f"/v1/documents/{quote(id, safe='')}")
            if response.status_code == 404:
                raise UsageError(f"knowledge base {self.url} has no document {id!r}: check the id")
            self._known[id] = self._parsed(KnownDocument, response)
        return self._known[id]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        try:
            response = self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise PipelineError(f"knowledge base {self.url} cannot be reached ({error}): check the service") from error
        if response.status_code == 401:
            raise UsageError(f"knowledge base {self.url} refuses the token: set a valid one")
        if response.status_code != 404 and response.is_error:
            raise PipelineError(f"knowledge base {self.url} answers {response.status_code}: {response.text[:200]}")
        return response

    def _parsed(self, shape: type[T], response: httpx2.Response) -> T:
        try:
            return shape.model_validate_json(response.content)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "answer"
            raise PipelineError(
                f"knowledge base {self.url} does not answer as POST /v1/context and GET /v1/documents do: "
                f"{where}: {fault['msg']}"
            ) from error

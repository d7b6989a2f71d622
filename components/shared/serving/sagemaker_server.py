"""Adapters as SageMaker inference components on the base component of one endpoint.

An adapter component names its base and an archive in S3, and asks for no compute of its own. The archive's key carries the
content's hash, and its bytes are a function of the content. Requests go to the endpoint's OpenAI-compatible container.
"""

import asyncio
import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.contracts.errors import UsageError
from components.shared.serving.adapters import Adapter, ServedBase
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, ModelServer, Unavailable

if TYPE_CHECKING:
    from botocore.client import BaseClient

READY = "InService"
PENDING = {"Creating", "Updating"}


class SageMakerServer(ModelServer):
    """One endpoint with a base inference component; `base.name` is that component's name."""

    def __init__(
        self,
        base: ServedBase,
        *,
        endpoint: str,
        bucket: str,
        prefix: str,
        sagemaker: "BaseClient",
        runtime: "BaseClient",
        s3: "BaseClient",
        load_timeout_s: float = 900.0,
        poll_s: float = 5.0,
    ):
        self.base = base
        self._endpoint, self._bucket, self._prefix = endpoint, bucket, prefix.strip("/")
        self._sagemaker, self._runtime, self._s3 = sagemaker, runtime, s3
        self._load_timeout_s, self._poll_s = load_timeout_s, poll_s

    async def load(self, adapter: Adapter) -> None:
        if adapter.rank is None:
            raise UsageError(f"{adapter.name} is a whole policy: deploy it as a variant, components hold LoRA adapters")
        if await self._status(adapter.name) is None:
            key = f"{self._prefix}/{adapter.name}.tar.gz"
            await self._call(self._s3.put_object, Bucket=self._bucket, Key=key, Body=archive(adapter.folder))
            await self._call(
                self._sagemaker.create_inference_component,
                InferenceComponentName=adapter.name,
                EndpointName=self._endpoint,
                Specification={
                    "BaseInferenceComponentName": self.base.name,
                    "Container": {"ArtifactUrl": f"s3://{self._bucket}/{key}"},
                },
            )
        await self._settle(adapter.name)

    async def unload(self, name: str) -> None:
        if await self._status(name) is not None:
            await self._call(self._sagemaker.delete_inference_component, InferenceComponentName=name)

    async def list_adapters(self) -> frozenset[str]:
        names: set[str] = set()
        query: dict[str, Any] = {"EndpointNameEquals": self._endpoint, "StatusEquals": READY}
        while True:
            page = await self._call(self._sagemaker.list_inference_components, **query)
            names |= {item["InferenceComponentName"] for item in page["InferenceComponents"]}
            if "NextToken" not in page:
                return frozenset(names - {self.base.name})
            query["NextToken"] = page["NextToken"]

    async def generate(self, model: str, request: ChatRequest) -> Answer:
        body = {
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            **({"seed": request.seed} if request.seed is not None else {}),
            **({"stop": list(request.stop)} if request.stop else {}),
        }
        reply = await self._call(
            self._runtime.invoke_endpoint,
            EndpointName=self._endpoint,
            InferenceComponentName=model,
            ContentType="application/json",
            Body=json.dumps(body).encode(),
        )
        try:
            answer = json.loads(await asyncio.to_thread(reply["Body"].read))
            choice, usage = answer["choices"][0], answer["usage"]
            return Answer(
                model=model,
                text=choice["message"]["content"] or "",
                finish_reason=choice["finish_reason"] or "stop",
                prompt_tokens=usage["prompt_tokens"],
                completion_tokens=usage["completion_tokens"],
            )
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unavailable(
                f"{self._endpoint} answers with no completion ({error!r}): check its container"
            ) from error

    async def health(self) -> None:
        reply = await self._call(self._sagemaker.describe_endpoint, EndpointName=self._endpoint)
        if reply["EndpointStatus"] not in (READY, "Updating"):
            reason = reply.get("FailureReason", "no reason given")
            raise Unavailable(f"endpoint {self._endpoint} is {reply['EndpointStatus']}: {reason}")

    async def _settle(self, name: str) -> None:
        """Wait until the component serves; its failure reason is the message where it does not."""
        deadline = time.monotonic() + self._load_timeout_s
        while (status := await self._status(name)) != READY:
            if status not in PENDING:
                raise Unavailable(
                    f"inference component {name} is {status}: read its FailureReason, mend and load again"
                )
            if time.monotonic() > deadline:
                raise Unavailable(f"inference component {name} is {status} after {self._load_timeout_s:.0f} s")
            await asyncio.sleep(self._poll_s)

    async def _status(self, name: str) -> str | None:
        from botocore.exceptions import ClientError

        try:
            reply = await asyncio.to_thread(self._sagemaker.describe_inference_component, InferenceComponentName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationException":
                return None
            raise Unavailable(f"{self._endpoint}: {error}") from error
        if reason := reply.get("FailureReason"):
            raise Unavailable(f"inference component {name} is {reply['InferenceComponentStatus']}: {reason}")
        return str(reply["InferenceComponentStatus"])

    async def _call(self, operation: Callable[..., Any], **request: Any) -> Any:
        """One AWS call off the event loop; throttling and faults are Unavailable, a wrong request is a UsageError."""
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        try:
            return await asyncio.to_thread(operation, **request)
        except ParamValidationError as error:
            raise UsageError(f"{self._endpoint}: {' '.join(str(error).split())}") from error
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"{self._endpoint}: {error}") from error


def archive(folder: Path) -> bytes:
    """The folder's files as a .tar.gz whose bytes depend on nothing but their names and content."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as f:
                tar.addfile(entry, f)
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)

"""Serving inside this process with transformers and PEFT: the back end of a laptop, and the reference for canaries.

Takes LoRA adapters on its base and whole policies beside it. One thread answers, one request at a time, so that an
adapter is never switched under a running answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.stage import ArtifactKind
from components.shared.serving.adapters import Adapter, ServedBase
from components.shared.serving.canary_prompts import CanaryPrompt
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, ModelServer, Unavailable
from components.shared.storage.artifacts import verify
from components.shared.training.policies import Policy, load_policy
from components.shared.training.rollouts import complete

T = TypeVar("T")


class InProcessServer(ModelServer):
    """A sealed base policy in memory, with its adapters and whole policies by name."""

    def __init__(self, folder: Path, name: str, *, max_rank: int = 64):
        """Raises CorruptArtifact where the folder does not match its manifest."""
        verify(folder, ArtifactKind.POLICY)
        self.base = ServedBase.of(folder, name, max_rank)
        self._policy = load_policy(folder)
        self._adapted: PeftModel | None = None
        self._lora: set[str] = set()
        self._whole: dict[str, Policy] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def load(self, adapter: Adapter) -> None:
        await self._run(self._load, adapter)

    async def unload(self, name: str) -> None:
        await self._run(self._unload, name)

    async def list_adapters(self) -> frozenset[str]:
        return frozenset(self._lora | self._whole.keys())

    async def generate(self, model: str, request: ChatRequest) -> Answer:
        if request.top_p != 1.0:
            raise UsageError(
                f"top_p = {request.top_p}: this back end samples from the whole distribution, leave it at 1"
            )
        return await self._run(self._generate, model, request)

    async def health(self) -> None:
        await self._run(lambda: None)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except PipelineError:
            raise
        except RuntimeError as error:
            raise Unavailable(f"{self.base.name}: {error}: start the server again") from error

    def _load(self, adapter: Adapter) -> None:
        if adapter.name in self._lora | self._whole.keys():
            return
        if adapter.rank is None:
            self._whole[adapter.name] = load_policy(adapter.folder)
            return
        options: dict[str, Any] = {"adapter_name": adapter.name, "local_files_only": True, "use_safetensors": True}
        if self._adapted is None:
            self._adapted = PeftModel.from_pretrained(self._policy.model, adapter.folder, **options)
        else:
            self._adapted.load_adapter(adapter.folder, **options)
        self._lora.add(adapter.name)

    def _unload(self, name: str) -> None:
        self._whole.pop(name, None)
        if name in self._lora and self._adapted is not None:
            self._lora.discard(name)
            if self._lora:
                self._adapted.set_adapter(next(iter(sorted(self._lora))))
                self._adapted.delete_adapter(name)
            else:
                self._policy = Policy(model=self._adapted.unload(), tokenizer=self._policy.tokenizer)
                self._adapted = None

    def _generate(self, model: str, request: ChatRequest) -> Answer:
        policy, context = self._select(model)
        prompt = _prompt(policy, request)
        if request.seed is not None:
            torch.manual_seed(request.seed)
        with context:
            [text] = complete(policy, [prompt], max_tokens=request.max_tokens, temperature=request.temperature or None)
        tokens = len(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
        stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        return Answer(
            model=model,
            text=text[: min(stops)] if stops else text,
            finish_reason="length" if tokens >= request.max_tokens and not stops else "stop",
            prompt_tokens=len(policy.tokenizer(prompt)["input_ids"]),
            completion_tokens=tokens,
        )

    def _adapted_policy(self, adapted: PeftModel) -> Policy:
        """PEFT's wrapper answers as the model that it wraps does."""
        return Policy(model=cast(PreTrainedModel, adapted), tokenizer=self._policy.tokenizer)

    def _select(self, model: str) -> tuple[Policy, Any]:
        if model in self._whole:
            return self._whole[model], nullcontext()
        if model in self._lora and self._adapted is not None:
            self._adapted.set_adapter(model)
            return self._adapted_policy(self._adapted), nullcontext()
        if model != self.base.name:
            raise Unavailable(f"{self.base.name} has no model {model!r}: load it")
        if self._adapted is None:
            return self._policy, nullcontext()
        return self._adapted_policy(self._adapted), self._adapted.disable_adapter()


def record_canaries(policy: Policy, prompts: Sequence[str], max_tokens: int) -> list[CanaryPrompt]:
    """The policy's greedy answers to the prompts, for swaps to compare with."""
    answers = complete(policy, prompts, max_tokens=max_tokens)
    return [
        CanaryPrompt(prompt=prompt, completion=answer, max_tokens=max_tokens)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _prompt(policy: Policy, request: ChatRequest) -> str:
    if not getattr(policy.tokenizer, "chat_template", None):
        return request.text
    turns = [{"role": m.role, "content": m.content} for m in request.messages]
    return str(policy.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

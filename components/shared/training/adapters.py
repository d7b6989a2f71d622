"""LoRA (arXiv 2106.09685): a policy's weights stay, an adapter on its linear layers alone is trained, and merged at the end.

    policy, reference = opened(folder, rank, strategy, world)
    ...train policy...
    policy = merged(policy)

Adapted is every linear layer but the head; of a mixture of experts attention alone: adapters on every expert would be larger
than a dense model, and one on the router would move which experts learn.

The reference is the policy with its adapter switched off, so that no second copy of the weights is held.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from transformers import PreTrainedModel

from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import read_manifest, seal
from components.shared.training.distributed.memory import ModelShape
from components.shared.training.distributed.spreading import spread_frozen
from components.shared.training.distributed.world import World
from components.shared.training.policies import Policy, load_policy

ADAPTER = "adapter"
"""Folder of a policy's in which the adapter lies that was merged into it: a sealed policy of its own."""
EVERY_LINEAR_LAYER, ATTENTION = "all-linear", ".self_attn."
SCALE = 2
"""LoRA's alpha over its rank."""


def opened(folder: Path, rank: int | None, strategy: Strategy, world: World) -> tuple[Policy, Policy]:
    """The policy in `folder` to train, and the frozen one that it starts from: a second copy, or, with a rank, itself
    without its adapter, for which the model must be whole (`StageConfig.refuses`)."""
    policy = load_policy(folder)
    if rank is None:
        reference = load_policy(folder)
        spread_frozen(reference.model, strategy, world)
        return policy, reference
    policy = with_adapter(policy, rank)
    trained: torch.nn.Module = policy.model
    trained.to(world.device)
    return policy, without_adapter(policy)


def with_adapter(policy: Policy, rank: int) -> Policy:
    """The policy with a fresh adapter, which changes no answer until it is trained. Raises UsageError for a rank that the
    model's width does not hold."""
    width = policy.model.config.get_text_config().hidden_size
    if rank > width:
        raise UsageError(
            f"lora_rank = {rank}: the model is {width} wide: choose a smaller rank, or null to train it whole"
        )
    # The adapter's own file must not say where its base lay on this machine.
    policy.model.name_or_path = policy.model.config._name_or_path = ""
    lora = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=targets(policy.model), task_type="CAUSAL_LM")
    return _named(get_peft_model(policy.model, lora), policy)


def targets(model: PreTrainedModel) -> str | list[str]:
    """PEFT's word for the layers that are adapted."""
    if ModelShape.of(model.config.get_text_config().to_dict()).experts == 1:
        return EVERY_LINEAR_LAYER
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return sorted({name.rpartition(".")[-1] for name in linear if ATTENTION in name})


def with_adapter_of(policy: Policy, folder: Path) -> Policy:
    """The policy with the saved adapter in `folder`, to be trained on."""
    policy.model.name_or_path = policy.model.config._name_or_path = ""
    adapted = PeftModel.from_pretrained(policy.model, folder, is_trainable=True, local_files_only=True)
    return _named(adapted, policy)


def without_adapter(policy: Policy) -> Policy:
    """The adapted policy as it is without its adapter."""
    return _named(Unadapted(cast(PeftModel, policy.model)), policy)


def bare(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside PEFT's wrapper, adapted layers and all; any other as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def drop_reference_adapter(model: PreTrainedModel) -> None:
    """Take out the copy of the adapter that TRL anchors an adapted model to: switched off, the adapter gives the same
    policy, and goes on doing so after a resume."""
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        model.delete_adapter("ref")


@contextmanager
def switched_on(model: PreTrainedModel) -> Iterator[None]:
    """The model with its adapter, if it has one, also inside a block that has switched it off."""
    if not isinstance(model, PeftModel) or model.get_model_status().enabled:
        yield
        return
    tuner = cast(LoraModel, model.base_model)
    tuner.enable_adapter_layers()
    yield
    tuner.disable_adapter_layers()


def merged(policy: Policy) -> Policy:
    """The policy with its adapter added to its weights, if it has one. Raises PipelineError where that cannot be."""
    if not isinstance(policy.model, PeftModel):
        return policy
    model = policy.model.merge_and_unload()
    if not isinstance(model, PreTrainedModel):
        raise PipelineError(f"a LoRA on a {type(model).__name__} cannot be merged: train without lora_rank")
    return Policy(model=model, tokenizer=policy.tokenizer)


def save_adapter(policy: Policy, folder: Path, base: Path) -> None:
    """Write the policy's adapter, if it has one, below `folder`, for servers that hold its base, `base`."""
    if not isinstance(policy.model, PeftModel):
        return
    adapter = folder / ADAPTER
    policy.model.save_pretrained(adapter, safe_serialization=True)
    (adapter / "README.md").unlink(missing_ok=True)
    policy.tokenizer.save_pretrained(adapter)
    rank = policy.model.peft_config["default"].r
    seal(adapter, ArtifactKind.POLICY, {"base": read_manifest(base).digest, "rank": rank})


class Unadapted:
    """A model without its adapter, in evaluation mode; the model itself comes out of every call as it went in."""

    def __init__(self, model: PeftModel):
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._switched_off() as model:
            return model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._switched_off() as model:
            return model.generate(*args, **kwargs)

    def eval(self) -> "Unadapted":
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model.get_base_model(), name)

    @contextmanager
    def _switched_off(self) -> Iterator[Any]:
        training = self._model.training
        self._model.eval()
        with self._model.disable_adapter():
            yield self._model.get_base_model()
        self._model.train(training)


def _named(model: object, policy: Policy) -> Policy:
    """PEFT's wrapper, and ours, are called as the model that they wrap is."""
    return Policy(model=cast(PreTrainedModel, model), tokenizer=policy.tokenizer)

"""What the student is: where it starts, and which of its parameters are trained.

A LoRA student's base is the tier's base, always, so that a server that holds that base can take the adapter alone; what it
starts from is the last adapter accepted on it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, PreTrainedModel

from components.distillation.spec import DistillationConfig
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import read_manifest, seal
from components.shared.training.policies import Policy, load_policy

ADAPTER = "adapter"
"""Folder of a policy's in which the adapter lies that was merged into it: a sealed policy of its own."""
EVERY_LINEAR_LAYER = "all-linear"


def open_student(inputs: Mapping[str, Path], config: DistillationConfig) -> tuple[Policy, str]:
    """The policy to train, and the input that it starts from: `champion`, the last one accepted, or `student`.

    It starts from the champion where that has the student's shape, so that a new shape of the tier is taken up the night
    it is configured.
    """
    if config.lora_rank is not None:
        return _with_adapter(inputs, config.lora_rank, config.warm_start)
    start = "champion" if config.warm_start and _shape(inputs["champion"]) == _shape(inputs["student"]) else "student"
    return load_policy(inputs[start]), start


def merged(policy: Policy, folder: Path, base: Path) -> Policy:
    """The policy with its LoRA merged in, if it has one; the adapter is then written below `folder`, for servers that hold
    its base, `base`."""
    if not isinstance(policy.model, PeftModel):
        return policy
    adapter = folder / ADAPTER
    policy.model.save_pretrained(adapter, safe_serialization=True)
    (adapter / "README.md").unlink(missing_ok=True)
    policy.tokenizer.save_pretrained(adapter)
    rank = policy.model.peft_config["default"].r
    seal(adapter, ArtifactKind.POLICY, {"base": read_manifest(base).digest, "rank": rank})
    model = policy.model.merge_and_unload()
    if not isinstance(model, PreTrainedModel):
        raise PipelineError(f"a LoRA on a {type(model).__name__} cannot be merged: distil without lora_rank")
    return Policy(model=model, tokenizer=policy.tokenizer)


def _with_adapter(inputs: Mapping[str, Path], rank: int, warm_start: bool) -> tuple[Policy, str]:
    """The base with a LoRA (arXiv 2106.09685) that alone learns, scaled by 2."""
    policy, last = load_policy(inputs["student"]), inputs["champion"] / ADAPTER
    # The adapter's own file must not say where its base lay on this machine.
    policy.model.name_or_path = policy.model.config._name_or_path = ""
    fits = {"base": read_manifest(inputs["student"]).digest, "rank": rank}
    if warm_start and last.is_dir() and read_manifest(last).metadata == fits:
        adapted = PeftModel.from_pretrained(policy.model, last, is_trainable=True, local_files_only=True)
        return _policy(adapted, policy), "champion"
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=EVERY_LINEAR_LAYER, task_type="CAUSAL_LM")
    return _policy(get_peft_model(policy.model, lora), policy), "student"


def _policy(adapted: object, base: Policy) -> Policy:
    """PEFT's wrapper is called as the model that it wraps is."""
    return Policy(model=cast(PreTrainedModel, adapted), tokenizer=base.tokenizer)


def _shape(folder: Path) -> dict[str, object]:
    """What a policy's configuration says of its architecture."""
    said = AutoConfig.from_pretrained(folder, local_files_only=True).to_diff_dict()
    return {key: said[key] for key in said.keys() - {"_name_or_path", "transformers_version", "dtype"}}

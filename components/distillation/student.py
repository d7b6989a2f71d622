"""What the student is: where it starts, and which of its parameters are trained.

A LoRA student's base is the tier's base, always, so that a server that holds that base can take the adapter alone; what it
starts from is the last adapter accepted on it.
"""

from collections.abc import Mapping
from pathlib import Path

from transformers import AutoConfig

from components.distillation.spec import DistillationConfig
from components.shared.storage.artifacts import read_manifest
from components.shared.training.adapters import ADAPTER, with_adapter, with_adapter_of
from components.shared.training.policies import Policy, load_policy


def open_student(inputs: Mapping[str, Path], config: DistillationConfig) -> tuple[Policy, str]:
    """The policy to train, and the input that it starts from: `champion`, the last one accepted, or `student`.

    It starts from the champion where that has the student's shape, so that a new shape of the tier is taken up the night
    it is configured.
    """
    if config.lora_rank is not None:
        return _adapted(inputs, config.lora_rank, config.warm_start)
    start = "champion" if config.warm_start and _shape(inputs["champion"]) == _shape(inputs["student"]) else "student"
    return load_policy(inputs[start]), start


def _adapted(inputs: Mapping[str, Path], rank: int, warm_start: bool) -> tuple[Policy, str]:
    """The base with the champion's adapter, where that is on this base and of this rank, or with a fresh one."""
    policy, last = load_policy(inputs["student"]), inputs["champion"] / ADAPTER
    fits = {"base": read_manifest(inputs["student"]).digest, "rank": rank}
    if warm_start and last.is_dir() and read_manifest(last).metadata == fits:
        return with_adapter_of(policy, last), "champion"
    return with_adapter(policy, rank), "student"


def _shape(folder: Path) -> dict[str, object]:
    """What a policy's configuration says of its architecture."""
    said = AutoConfig.from_pretrained(folder, local_files_only=True).to_diff_dict()
    return {key: said[key] for key in said.keys() - {"_name_or_path", "transformers_version", "dtype"}}

"""configs/accelerate and configs/deepspeed, read by the libraries that they are for."""

import json
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from components.shared.storage.paths import configs_root

ACCELERATE = sorted((configs_root() / "accelerate").glob("*.yaml"))
DEEPSPEED = sorted((configs_root() / "deepspeed").glob("*.json"))


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path):
    config = load_config_from_file(str(path))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero3": "DEEPSPEED"}[path.stem]
    assert config.distributed_type == kind
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2 and config.fsdp_config["fsdp_reshard_after_forward"] is True
    if kind == "DEEPSPEED":
        assert configs_root().parent / config.deepspeed_config["deepspeed_config_file"] in DEEPSPEED


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_files_ask_for_zero3_and_gather_what_is_saved(path):
    zero = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]
    assert zero["stage"] == 3 and zero["stage3_gather_16bit_weights_on_model_save"]
    assert ("offload_param" in zero) == path.stem.endswith("offload")

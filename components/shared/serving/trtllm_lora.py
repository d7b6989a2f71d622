"""A PEFT adapter as the two tensors that TensorRT-LLM takes with a request.

    lora_weights  (1, M, W) float16: a row for each adapted module, A then B, flattened, padded to the longest
    lora_config   (1, M, 3) int32: module id, layer, rank

The scaling alpha / r (alpha / sqrt(r) for rsLoRA) is multiplied into B. Layout and ids as in NVIDIA's TensorRT-LLM 0.18,
docs/source/advanced/lora.md.
"""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
from safetensors import safe_open

from components.shared.contracts.errors import UsageError
from components.shared.serving.adapters import CONFIG, WEIGHTS

MODULE_IDS = {
    "qkv_proj": 0,
    "q_proj": 1,
    "k_proj": 2,
    "v_proj": 3,
    "o_proj": 4,
    "gate_proj": 5,
    "down_proj": 6,
    "up_proj": 7,
}
TENSOR = re.compile(r".*\.layers\.(\d+)\.(?:self_attn|mlp)\.([a-z_]+)\.lora_([AB])\.weight$")


def task_id(digest: str) -> int:
    """The adapter's id on the server: 63 bits of its content's hash, never 0, which means no adapter."""
    return int(digest[:16], 16) >> 1 or 1


def lora_tensors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """`lora_weights` and `lora_config` of the adapter in `folder`. Raises UsageError for what TensorRT-LLM cannot adapt."""
    config = json.loads((folder / CONFIG).read_bytes())
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    if config.get("use_dora"):
        raise UsageError(f"{folder} is a DoRA adapter: train plain LoRA for TensorRT-LLM")
    pairs: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    with safe_open(os.fspath(folder / WEIGHTS), framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            found = TENSOR.match(name)
            if found is None or found[2] not in MODULE_IDS:
                raise UsageError(f"{folder}: TensorRT-LLM takes no adapter on {name}: train on {', '.join(MODULE_IDS)}")
            # numpy has no bfloat16, so the tensors come through torch.
            pairs.setdefault((int(found[1]), found[2]), {})[found[3]] = tensors.get_tensor(name).float().numpy()
    rows, modules = [], []
    for (layer, module), pair in sorted(pairs.items()):
        rows.append(np.concatenate([pair["A"].ravel(), scale * pair["B"].ravel()]))
        modules.append((MODULE_IDS[module], layer, pair["A"].shape[0]))
    width = max(map(len, rows))
    weights = np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype(np.float16)
    return weights[None], np.array(modules, dtype=np.int32)[None]

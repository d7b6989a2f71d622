"""Sentence embeddings of prompts from an encoder on disk, for complexity where its cheap features do not tell enough.

A small encoder takes some milliseconds of a core for a prompt, more than everything else that the router does.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from components.shared.serving.complexity import Embedder

KEPT = 4096
"""Prompts whose embedding is remembered: players ask the same things."""


def load_embedder(folder: Path) -> Embedder:
    """The encoder in `folder`: mean of its last layer over the prompt's tokens, of unit length. Safetensors only."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
    longest = min(512, getattr(model.config, "max_position_embeddings", 512))

    @functools.lru_cache(KEPT)
    @torch.no_grad()
    def embed(text: str) -> Sequence[float]:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest, return_token_type_ids=False)
        if batch["input_ids"].shape[1] == 0:
            return (0.0,) * model.config.hidden_size
        mean_D = model(**batch).last_hidden_state[0].mean(dim=0)
        return tuple(torch.nn.functional.normalize(mean_D, dim=0).tolist())

    return embed

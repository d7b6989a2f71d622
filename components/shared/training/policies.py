"""Policies on disk and in memory: safetensors only, no remote code, and the same bytes for the same weights.

A policy's folder holds config.json, model.safetensors and the tokenizer's files; `seal` adds the manifest.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

# The OpenMP runtime reads this once, when torch loads: waiting threads must not burn the second core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from components.shared.contracts.environment import Strategy
from components.shared.training.distributed.spreading import assembled, spread_frozen
from components.shared.training.distributed.world import World

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A causal language model with its tokenizer, padded on the left."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def deterministic(seed: int) -> None:
    """Make the process's arithmetic a function of the seed: one thread on a CPU, every generator seeded."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    torch.manual_seed(seed)


def load_policy(folder: Path) -> Policy:
    """Load a policy from its folder, in float32 on a CPU and in the stored type on a GPU."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        dtype="auto" if torch.cuda.is_available() else torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    return Policy(model=model, tokenizer=cast(PreTrainedTokenizerFast, tokenizer))


def load_frozen(folder: Path) -> Policy:
    """A policy that only answers, alone in this process and on its device."""
    policy = load_policy(folder)
    spread_frozen(policy.model, Strategy.SINGLE, World())
    return policy


def save_policy(policy: Policy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the policy's files into an existing folder; `weights` stand in for the model's own.

    Where the model is split over processes, every one of them must call it.
    """
    if weights is None and any(isinstance(p, DTensor) for p in policy.model.parameters()):
        weights = assembled(policy.model)
    policy.model.save_pretrained(folder, safe_serialization=True, state_dict=weights)
    policy.tokenizer.save_pretrained(folder)


def parameter_count(model: PreTrainedModel) -> int:
    """How many parameters the model has, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def encode_prompts(policy: Policy, prompts: Sequence[str]) -> BatchEncoding:
    """Prompts as `input_ids` and `attention_mask`, both (B, P), padded on the left."""
    return policy.tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)

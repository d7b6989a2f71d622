"""Build the local family: three small Llama policies with one tokenizer, pre-trained on the worlds' own text.

    python scripts/build_local_models.py [--steps N] [--out DIR]

A word-level vocabulary is collected from every model type; each size is pre-trained on a mixture of all model types' folk
text, whose speakers keep the world's rules about a third of the time. That is the headroom that SRL and RLVR work in.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.shared.contracts.records import Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import progress
from components.shared.storage.artifacts import seal, whole
from components.shared.storage.paths import configs_root
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer
from components.shared.training.policies import Policy, deterministic, parameter_count, save_policy

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
WIDTHS = {Tier.BRONZE: 128, Tier.SILVER: 88, Tier.GOLD: 64}
LAYERS, HEADS = 3, 4


def build_tokenizer(trainers: list[ModelTypeTrainer]) -> PreTrainedTokenizerFast:
    """One token a word, the words of every model type."""
    words = sorted({word for trainer in trainers for word in trainer.vocabulary()})
    vocabulary = {word: i for i, word in enumerate([PAD, EOS, UNK, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, clean_up_tokenization_spaces=False
    )


def build_model(width: int, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama of the family."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def pretrain(policy: Policy, rows: list[list[list[int]]], rate: float, name: str) -> float:
    """Next-token training on batches of whole texts; returns the mean loss of the last tenth."""
    model, pad, steps = policy.model, policy.tokenizer.pad_token_id, len(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    losses = []
    model.train()
    for step, batch in enumerate(progress(rows, f"pre-train {name}")):
        longest = max(map(len, batch))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in batch])
        labels = ids.masked_fill(ids == pad, -100)
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * max(0.05, 1 - step / steps)
        optimizer.step()
        losses.append(loss.item())
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def corpus(
    trainers: list[ModelTypeTrainer], tokenizer: PreTrainedTokenizerFast, steps: int, batch_size: int, seed: int
) -> list[list[list[int]]]:
    """`steps` batches of texts, an equal share of each model type, texts of like length together to save padding."""
    count = steps * batch_size
    texts = [
        text
        for trainer in trainers
        for text in trainer.corpus(random.Random(f"{trainer.name}/{seed}"), count // len(trainers) + 1)
    ]
    rng = random.Random(seed)
    rng.shuffle(texts)
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts[:count], add_special_tokens=False)["input_ids"]]
    window = 32 * batch_size
    ordered = [row for start in range(0, count, window) for row in sorted(rows[start : start + window], key=len)]
    batches = [ordered[start : start + batch_size] for start in range(0, count, batch_size)]
    rng.shuffle(batches)
    return batches


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the local family of small models.")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--world", default="wrackmere")
    parser.add_argument("--tier", type=Tier, choices=list(Tier), action="append")
    parser.add_argument("--out", type=Path, default=configs_root() / "models" / "local")
    options = parser.parse_args()
    trainers = [create_trainer(name, options.world) for name in MODEL_TYPES]
    tokenizer = build_tokenizer(trainers)
    rows = corpus(trainers, tokenizer, options.steps, options.batch_size, seed=0)
    for index, tier in enumerate(options.tier or list(Tier)):
        deterministic(index)
        policy = Policy(model=build_model(WIDTHS[tier], tokenizer), tokenizer=tokenizer)
        started = time.process_time()
        loss = pretrain(policy, rows, 3e-3, tier)
        size = parameter_count(policy.model)
        with whole(options.out / tier) as folder:
            save_policy(policy, folder)
            seal(
                folder,
                ArtifactKind.POLICY,
                {"family": "local", "tier": tier, "parameters": size, "steps": options.steps},
            )
        print(f"{tier}: {size} parameters, loss {loss:.3f}, {time.process_time() - started:.0f} CPU seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())

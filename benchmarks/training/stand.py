"""A model, a tokenizer and rows that the training benchmarks share; importing it leaves torch one thread."""

import copy
import logging
import math
import random
import warnings

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
datasets.disable_progress_bars()
logging.getLogger("trl").setLevel(logging.ERROR)
PAD, EOS = 0, 1


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a word `wN`."""
    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, vocabulary))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def build_model(vocabulary: int, width: int = 256, layers: int = 4) -> LlamaForCausalLM:
    """A random Llama; with 256 x 4 it has 3.4 million parameters beside the embeddings."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=None,
        )
    )


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    return copy.deepcopy(model)


def words(rng: random.Random, vocabulary: int, count: int) -> list[int]:
    return [rng.randrange(3, vocabulary) for _ in range(count)]


def lengths(rng: random.Random, count: int, median: int, longest: int, spread: float = 0.7) -> list[int]:
    """Log-normal, as the lengths of written answers are."""
    drawn = (rng.lognormvariate(math.log(median), spread) for _ in range(count))
    return [max(16, min(longest, round(length))) for length in drawn]

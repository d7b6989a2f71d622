"""A policy optimiser over the toy policy: eight prompts, completions of up to six words, any reward function."""

import copy

import pytest

PROMPTS = ["the bell", "say yes", "say no", "at dawn the bell", "rings", "the dawn", "bell at dawn", "no yes"]


def likes_bell(completions, **_):
    """Rewards the share of words that are `bell`."""
    return [text.split().count("bell") / max(1, len(text.split())) for text in completions]


@pytest.fixture
def make_optimizer(tiny_policy, tmp_path):
    """Builds a PolicyOptimizer; `update` holds fields of Update, the rest goes to the constructor."""
    from datasets import Dataset

    from components.shared.training.grpo.algorithms import Update, arguments
    from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
    from components.shared.training.grpo.settings import Algorithm, SamplingSettings
    from components.shared.training.policies import save_policy

    anchor = tmp_path / "anchor"
    anchor.mkdir()
    save_policy(tiny_policy, anchor)

    def make(cls=PolicyOptimizer, *, policy=None, reward=likes_bell, update=None, rows=None, trl=None, **options):
        policy = policy or tiny_policy
        policy.model.name_or_path = policy.model.config._name_or_path = str(anchor)
        values = {
            "algorithm": Algorithm.GRPO,
            "steps": 3,
            "seed": 0,
            "prompts": 4,
            "group_size": 4,
            "max_tokens": 6,
            "learning_rate": 1e-2,
            "max_grad_norm": 1.0,
            "beta": 0.05,
            "temperature": 1.0,
        }
        return cls(
            model=policy.model,
            reward_funcs=[reward],
            args=arguments(Update(**(values | (update or {}))), str(tmp_path / "scratch"), **(trl or {})),
            train_dataset=Dataset.from_list(rows or [{"prompt": p, "index": i} for i, p in enumerate(PROMPTS)]),
            processing_class=policy.tokenizer,
            **({"sampling": SamplingSettings()} | options),
        )

    return make


@pytest.fixture
def twin(tiny_policy):
    """Makes independent copies of the toy policy."""
    from components.shared.training.policies import Policy

    original = copy.deepcopy(tiny_policy.model)
    return lambda: Policy(model=copy.deepcopy(original), tokenizer=tiny_policy.tokenizer)

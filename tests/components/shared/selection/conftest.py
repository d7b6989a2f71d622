"""Measured policies to choose between."""

import pytest

from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, Measured
from components.shared.selection.prices import Prices


@pytest.fixture
def prices():
    return Prices.model_validate(
        {
            "as_of": "2026-01-01",
            "instances": {
                "small": {"usd_per_hour": 3.6, "source": "a list"},
                "large": {"usd_per_hour": 36.0, "low": 18.0, "high": 72.0, "source": "lists that disagree"},
            },
        }
    )


@pytest.fixture
def measured():
    def make(policy="a", tier=Tier.GOLD, **fields):
        defaults = {
            "model_type": "npc_dialogue",
            "tier": tier,
            "policy": policy * 64,
            "base_model": "base",
            "parameters": 3_000_000_000,
            "instance": "small",
            "input_tokens_per_s": 10_000.0,
            "output_tokens_per_s": 1000.0,
            "first_token_ms": 20.0,
            "token_ms": 10.0,
            "completion_tokens": 40.0,
            "samples": 500,
        }
        return Measured(**{**defaults, **fields})

    return make


@pytest.fixture
def scored():
    """A benchmark by its policy's letter, mean quality and USD per million tokens written."""

    def make(policy="a", quality=0.8, usd=1.0, *, half=0.02, tier=Tier.GOLD, **fields):
        defaults = {
            "model_type": "npc_dialogue",
            "tier": tier,
            "trainer": "distillation",
            "base_model": "base",
            "policy": policy * 64,
            "quality": quality,
            "quality_low": quality - half,
            "samples": 500,
            "quality_by_complexity": (quality,),
            "usd_per_million_input_tokens": usd / 10,
            "usd_per_million_output_tokens": usd,
            "first_token_ms": 20.0,
            "token_ms": 10.0,
            "completion_tokens": 40.0,
        }
        return Benchmark(**{**defaults, **fields})

    return make

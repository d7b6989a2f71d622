"""An adapter changes nothing until it is trained, switches off to the very base, and merges into what was trained."""

import copy

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from components.catalogue import spec_of
from components.shared.contracts.configuration import parse_config
from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import UsageError
from components.shared.training.adapters import bare, merged, switched_on, with_adapter, without_adapter
from components.shared.training.policies import Policy, parameter_count
from components.shared.training.supervised import collate, completion_logprobs, example

TEXTS = [("the bell", "rings at dawn"), ("say yes ; no", "the bell")]


def answers(policy):
    rows = [example(policy, prompt, [text], [1.0]) for prompt, text in TEXTS]
    with torch.no_grad():
        return completion_logprobs(policy.model, collate(rows, 0))


def trained(policy):
    """The policy with an adapter that has learned something."""
    adapted = with_adapter(policy, 4)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(adapted.model).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapted


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapted_layers(model):
    return {name.split(".lora_A")[0].removeprefix("base_model.model.") for name in trainable(model) if "lora_A" in name}


def test_a_fresh_adapter_says_what_the_base_says_and_alone_is_trained(tiny_policy):
    base = copy.deepcopy(tiny_policy)
    adapted = with_adapter(tiny_policy, 4)
    assert torch.equal(answers(adapted), answers(base))
    assert all("lora_" in name for name in trainable(adapted.model))
    assert 0 < sum(p.numel() for p in trainable(adapted.model).values()) < parameter_count(base.model)
    linear = {n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert adapted_layers(adapted.model) == linear


def test_switched_off_it_is_the_base_whose_weights_it_shares_and_comes_back_as_it_was(tiny_policy):
    base = copy.deepcopy(tiny_policy)
    adapted = trained(tiny_policy)
    reference, alone = without_adapter(adapted), trainable(adapted.model).keys()
    adapted.model.train()
    expected = answers(adapted)
    assert not torch.allclose(expected, answers(base), atol=1e-2)
    assert torch.equal(answers(reference), answers(base))
    assert torch.equal(answers(adapted), expected) and adapted.model.training
    assert trainable(adapted.model).keys() == alone
    held = {p.data_ptr() for p in adapted.model.parameters()}
    assert {p.data_ptr() for p in reference.model.parameters()} <= held, "no second copy"


def test_inside_a_block_that_switches_it_off_it_can_be_switched_on(tiny_policy):
    adapted = trained(tiny_policy)
    expected = answers(adapted)
    with adapted.model.disable_adapter():
        off = answers(adapted)
        with switched_on(adapted.model):
            assert torch.equal(answers(adapted), expected) and trainable(adapted.model)
        assert torch.equal(answers(adapted), off) and not torch.equal(off, expected)
    with switched_on(adapted.model):
        pass
    assert torch.equal(answers(adapted), expected), "where it is on already nothing is switched"


def test_merging_gives_what_was_trained_and_only_then_moves_the_base(tiny_policy):
    base = copy.deepcopy(tiny_policy.model.state_dict())
    adapted = trained(tiny_policy)
    before = {n.replace(".base_layer", ""): v.clone() for n, v in bare(adapted.model).state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in base.items())
    expected = answers(adapted)
    policy = merged(adapted)
    torch.testing.assert_close(answers(policy), expected, atol=1e-5, rtol=0)
    after = policy.model.state_dict()
    assert after.keys() == base.keys()
    changed = {name for name in base if not torch.equal(after[name], base[name])}
    assert changed == {name for name in base if "_proj" in name}
    assert merged(policy) is policy, "a policy without an adapter is what it is"


def test_of_a_mixture_of_experts_attention_alone_is_adapted(tiny_policy):
    config = DeepseekV3Config(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = DeepseekV3ForCausalLM(config).eval()
    adapted = trained(Policy(model=model, tokenizer=tiny_policy.tokenizer))
    assert {name.split(".")[-2] for name in adapted_layers(adapted.model)} == {"self_attn"}
    assert all("self_attn" in name for name in trainable(adapted.model))
    expected = answers(adapted)
    torch.testing.assert_close(answers(merged(adapted)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", ["srl", "rlvr", "distillation"])
def test_a_rank_below_one_is_refused(stage):
    with pytest.raises(UsageError, match="lora_rank"):
        parse_config(spec_of(stage).config, {"lora_rank": 0}, stage)


def test_a_rank_wider_than_the_model_is_refused(tiny_policy):
    with pytest.raises(UsageError, match="lora_rank = 17: the model is 16 wide: choose a smaller rank"):
        with_adapter(tiny_policy, 17)


@pytest.mark.parametrize(
    ("stage", "config", "refused"),
    [
        ("srl", {}, []),
        ("srl", {"lora_rank": 4}, [Strategy.FSDP, Strategy.DEEPSPEED]),
        ("srl", {"reading": "similarity"}, [Strategy.DEEPSPEED]),
        ("rlvr", {}, [Strategy.DEEPSPEED]),
        ("rlvr", {"lora_rank": 4}, [Strategy.FSDP, Strategy.DEEPSPEED]),
        ("rlvr", {"algorithm": "ppo"}, [Strategy.FSDP, Strategy.DEEPSPEED]),
    ],
)
def test_what_a_configuration_cannot_be_spread_by_is_known_before_anything_runs(stage, config, refused):
    config = parse_config(spec_of(stage).config, config, stage)
    assert [strategy for strategy in Strategy if config.refuses(strategy) is not None] == refused

import torch

from components.shared.training.policies import load_policy, save_policy


def test_a_saved_policy_loads_with_the_same_weights_and_words_and_no_pickle(tiny_policy, tmp_path):
    save_policy(tiny_policy, tmp_path)
    loaded = load_policy(tmp_path)
    for (name, ours), (_, theirs) in zip(
        tiny_policy.model.named_parameters(), loaded.model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert loaded.tokenizer.get_vocab() == tiny_policy.tokenizer.get_vocab()
    assert loaded.tokenizer.padding_side == "left"
    assert not [p.name for p in tmp_path.iterdir() if p.suffix in {".bin", ".pt", ".pkl"}]

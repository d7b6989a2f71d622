import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.training.divergence import full_kl, k1, k2, k3

logits = st.lists(st.floats(-4, 4), min_size=5, max_size=5).map(lambda x: torch.tensor(x).log_softmax(-1))


@given(logits, logits)
def test_full_kl_is_torch_distributions_kl(p, q):
    from torch.distributions import Categorical, kl_divergence

    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(full_kl(p, q), expected, atol=1e-5, rtol=1e-4)
    assert full_kl(p, p).abs() < 1e-6


@settings(max_examples=20)
@given(logits, logits)
def test_k1_and_k3_are_unbiased_and_k3_is_never_negative(p, q):
    """The expectation over p of either estimator is the KL itself."""
    weights = p.exp()
    for estimator in (k1, k3):
        torch.testing.assert_close((weights * estimator(p, q)).sum(), full_kl(p, q), atol=1e-5, rtol=1e-4)
    assert (k3(p, q) >= -1e-6).all()


def test_k2_has_the_gradient_of_the_kl_on_policy():
    logits = torch.tensor([0.3, -1.0, 0.8], requires_grad=True)
    q = torch.tensor([0.1, 0.5, -0.2]).log_softmax(-1)
    p = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(full_kl(p, q), logits, retain_graph=True)
    weighted = (p.detach().exp() * k2(p, q)).sum()
    (estimated,) = torch.autograd.grad(weighted, logits)
    torch.testing.assert_close(estimated, exact, atol=1e-6, rtol=1e-5)

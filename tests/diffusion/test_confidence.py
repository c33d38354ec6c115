import pytest
import torch

from omni_diffusion.diffusion.confidence import confidence, entropy, margin


def test_entropy_matches_the_published_formula() -> None:
    for scale in (0.1, 3.0, 40.0):
        p = (torch.randn(20, 600) * scale).softmax(-1)
        published = (p * (p + 1e-10).log()).sum(-1)
        torch.testing.assert_close(entropy(p.log()), published, atol=1e-6, rtol=1e-5)


def test_a_certain_place_has_entropy_zero_and_an_even_one_the_least() -> None:
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    even = torch.full((1, 4), 0.25).log()
    assert entropy(certain) == 0
    assert entropy(even) == pytest.approx(-torch.tensor(4.0).log().item())


def test_margin_and_max_probability() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    torch.testing.assert_close(margin(log_p), torch.tensor([0.2, 0.7]))
    chosen = torch.tensor([1, 2])
    torch.testing.assert_close(
        confidence("max_probability", log_p, chosen), torch.tensor([0.3, 0.8])
    )
    assert margin(torch.zeros(2, 1)).tolist() == [1, 1]

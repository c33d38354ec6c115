"""Block-causal visibility by brute force; a norm that does not see padding."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from omni_diffusion.codecs.glm_voice.masks import MaskedGroupNorm, block_causal, hide


@given(length=st.integers(1, 30), block=st.integers(1, 12))
def test_block_causal_by_brute_force(length: int, block: int) -> None:
    seen = block_causal(torch.arange(length), block)
    wanted = [[j <= i or i // block == j // block for j in range(length)] for i in range(length)]
    assert seen.tolist() == wanted


def test_the_norm_ignores_padding() -> None:
    norm = MaskedGroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 10)
    mask = torch.ones(2, 1, 10)
    mask[1, :, 7:] = 0.0
    together = norm(x, mask)
    torch.testing.assert_close(together[:1], norm(x[:1]))
    torch.testing.assert_close(together[1:, :, :7], norm(x[1:, :, :7]))


def test_hide_without_a_mask_is_nothing() -> None:
    x = torch.randn(1, 2, 3)
    assert hide(x, None) is x
    assert not hide(x, torch.zeros(1, 1, 3)).any()

"""Relative attention against its formula, block visibility and refusals."""

import math

import pytest
import torch

from omni_diffusion.codecs.glm_voice.token_encoder import (
    RelativeAttention,
    TokenEncoder,
    TokenEncoderConfig,
    relative_positions,
)
from omni_diffusion.errors import ConfigError

SMALL = TokenEncoderConfig(input_size=6, width=8, heads=2, ffn=8, blocks=2, block_size=4)


@torch.no_grad()
def test_scores_follow_the_formula_place_by_place() -> None:
    attention = RelativeAttention(8, 2)
    torch.nn.init.normal_(attention.pos_bias_u)
    torch.nn.init.normal_(attention.pos_bias_v)
    x, allowed = torch.randn(1, 5, 8), torch.ones(5, 5).tril().bool()[None, None]
    table = relative_positions(5, 8)

    def heads(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, 2, 4)

    q, k = heads(attention.linear_q(x[0])), heads(attention.linear_k(x[0]))
    v, p = heads(attention.linear_v(x[0])), heads(attention.linear_pos(table))
    mixed = torch.zeros(5, 2, 4)
    for head in range(2):
        for i in range(5):
            scores = torch.full((5,), -math.inf)
            for j in range(i + 1):
                content = (q[i, head] + attention.pos_bias_u[head]) @ k[j, head]
                offset = p[5 - 1 - (i - j), head]  # the table runs from offset 4 down
                place = (q[i, head] + attention.pos_bias_v[head]) @ offset
                scores[j] = (content + place) / 2.0
            mixed[i, head] = scores.softmax(0) @ v[:, head]
    expected = attention.linear_out(mixed.reshape(5, 8))
    torch.testing.assert_close(attention(x, table, allowed)[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_code_sees_its_block_and_the_past_alone() -> None:
    encoder = TokenEncoder(SMALL).eval()
    x = torch.randn(1, 12, 6)
    before = encoder(x)
    changed = x.clone()
    changed[:, 6] += 1.0
    moved = (encoder(changed) - before).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 8


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 10 with 4 heads"):
        TokenEncoderConfig(width=10, heads=4)

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.backbone.attention import (
    AttentionMask,
    Packing,
    attend,
    attend_packed,
    rotary_table,
    rotate,
    segment_positions,
    segment_starts,
)

rows_of_segments = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, sees: Tensor) -> Tensor:
    """One query at a time, the sum written out; sees: bool [B, Lq, Lk]."""
    out = torch.zeros_like(q)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        group = h * k.shape[1] // q.shape[1]
        keys = sees[b, i].nonzero().flatten()
        if len(keys):
            scores = k[b, group, keys] @ q[b, h, i] / math.sqrt(q.shape[-1])
            out[b, h, i] = scores.softmax(0) @ v[b, group, keys]
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_equals_the_sum_written_out(kv_heads: int, masked: bool) -> None:
    q = torch.randn(2, 4, 5, 8)
    k, v = torch.randn(2, kv_heads, 7, 8), torch.randn(2, kv_heads, 7, 8)
    sees = torch.rand(2, 5, 7) > 0.5 if masked else torch.ones(2, 5, 7, dtype=torch.bool)
    sees[0, 3] = not masked
    mask = AttentionMask.of(sees[:, None]) if masked else None
    assert torch.allclose(attend(q, k, v, mask), plain_attention(q, k, v, sees), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_packed_sequences_attend_to_themselves(kv_heads: int) -> None:
    keys, queries = (3, 3, 5, 2, 5), (2, 2, 0, 2, 5)
    q = torch.randn(1, 4, sum(queries), 8)
    k, v = torch.randn(1, kv_heads, sum(keys), 8), torch.randn(1, kv_heads, sum(keys), 8)
    owner = [torch.arange(5).repeat_interleave(torch.tensor(sizes)) for sizes in (queries, keys)]
    sees = owner[0][:, None] == owner[1]
    mixed = attend_packed(q, k, v, Packing(keys, queries))
    assert torch.allclose(mixed, plain_attention(q, k, v, sees[None]), atol=1e-5)


def gradients(mixed: Tensor, *leaves: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, mixed.numel()).view(mixed.shape)
    return list(torch.autograd.grad((mixed.float() * weights).sum(), leaves))


@pytest.mark.parametrize("masked", [False, True])
def test_training_in_bfloat16_is_the_same_attention(masked: bool) -> None:
    q = torch.randn(2, 4, 7, 8, requires_grad=True)
    k, v = (torch.randn(2, 2, 7, 8, requires_grad=True) for _ in range(2))
    sees = torch.rand(2, 7, 7) > 0.5
    sees[0, 3] = False
    mask = AttentionMask.of(sees[:, None]) if masked else None
    exact = attend(q, k, v, mask)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = attend(q, k, v, mask)
    assert torch.allclose(coarse.float(), exact, atol=0.03)
    pairs = zip(gradients(coarse, q, k, v), gradients(exact, q, k, v), strict=True)
    for near, wanted in pairs:
        assert torch.allclose(near, wanted, atol=0.03)


@pytest.mark.parametrize("reduced", [False, True])
def test_empty_queries_get_zeros_and_send_no_gradient(reduced: bool) -> None:
    q, k, v = (torch.randn(1, 2, 3, 8, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        out = attend(q, k, v, AttentionMask.of(torch.zeros(1, 1, 3, 3, dtype=torch.bool)))
    out.sum().backward()
    assert out.abs().max() == 0
    for leaf in (q, k, v):
        assert leaf.grad is not None
        assert leaf.grad.abs().max() == 0


@given(rows_of_segments)
def test_segments_equal_the_rule_written_out(row: list[int]) -> None:
    mask = AttentionMask.of_segments(torch.tensor([row]))
    for i, mine in enumerate(row):
        assert bool(mask.empty[0, 0, i, 0]) == (mine == 0)
        if mine:
            assert mask.mask[0, 0, i].tolist() == [other == mine for other in row]


@given(rows_of_segments)
def test_positions_restart_at_each_segment(row: list[int]) -> None:
    segments = torch.tensor([row])
    expected: list[int] = []
    for i, mine in enumerate(row):
        expected.append(expected[-1] + 1 if i and row[i - 1] == mine else 0)
    assert segment_positions(segments).tolist() == [expected]
    assert segment_starts(segments).tolist() == [[place == 0 for place in expected]]


def test_rotary_table_of_the_published_code(parity_dir: Path) -> None:
    stored = load_file(parity_dir / "backbone/forward.safetensors")
    cos, sin = rotary_table(torch.arange(24)[None], 16, 1e6, torch.float32)
    assert torch.allclose(cos[0], stored["rope_cos"], atol=1e-6)
    assert torch.allclose(sin[0], stored["rope_sin"], atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_rotated_products_depend_on_distance_alone(a: int, b: int, shift: int) -> None:
    q, k = torch.linspace(-1, 1, 8, dtype=torch.float64), torch.arange(8, dtype=torch.float64).sin()

    def product(at_q: int, at_k: int) -> float:
        cos, sin = rotary_table(torch.tensor([[at_q, at_k]]), 8, 1e4, torch.float64)
        turned = rotate(torch.stack([q, k])[None, None], cos[:, None], sin[:, None])[0, 0]
        return float(turned[0] @ turned[1])

    assert product(a, b) == pytest.approx(product(a + shift, b + shift), abs=1e-3)

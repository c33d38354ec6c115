"""Attention masks, rotary positions and attention itself, without weights.

Dimensions: B batch, L positions (Lq of queries, Lk of keys), H query heads, G key-value heads,
K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class AttentionMask:
    """Which positions each position may attend to.

    mask: bool [B, 1, Lq, Lk], True = may attend; all True for a query that attends to nothing.
    empty: bool [B, 1, Lq, 1], True = attends to nothing; its attention output is zero.

    Softmax over nothing differs between kernels (zeros or NaN). Therefore `mask` opens such a
    query, and `empty` zeroes its output.
    """

    mask: Tensor
    empty: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> AttentionMask:
        """From a bool mask [B, 1, Lq, Lk] in which True lets the query attend to the key."""
        empty = ~mask.any(dim=-1, keepdim=True)
        return cls(mask | empty, empty)

    @classmethod
    def of_segments(cls, segments: Tensor) -> AttentionMask:
        """From segment numbers [B, L]: equal numbers attend to one another, 0 is padding."""
        same = segments[:, :, None] == segments[:, None, :]
        return cls.of((same & (segments > 0)[:, None, :])[:, None])


@dataclass(frozen=True)
class Packing:
    """Sequences one after the other in a single row; each attends to itself alone.

    keys: their lengths. queries: how many positions of each ask; by default all.
    """

    keys: tuple[int, ...]
    queries: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packing:
        """Sequences of these lengths, in which every position asks."""
        return cls(tuple(lengths), tuple(lengths))


def segment_starts(segments: Tensor) -> Tensor:
    """The first position of each segment: [B, L] -> bool [B, L]."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def segment_positions(segments: Tensor) -> Tensor:
    """Positions counted from 0 within each segment: [B, L] -> [B, L]."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.where(segment_starts(segments), index, 0).cummax(dim=1).values
    return index - first


def rotary_table(
    positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al. 2021): [B, L] -> two of [B, L, K].

    The angle of pair j is position * theta^(-2j/K), computed in float32; the two halves of the
    last axis are equal because Dream pairs element j with element j + K/2.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * (1.0 / theta ** (exponents / head_dim))
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys [B, H, L, K] by the angles of their positions, tables [B, 1, L, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """Bidirectional attention: q [B, H, Lq, K], k and v [B, G, Lk, K] -> [B, H, Lq, K].

    Key-value head g serves query heads g*H/G .. (g+1)*H/G - 1; the scale is 1/sqrt(K). Without
    `mask` every query attends to every key, and kernels that take no mask can be used.
    """
    if torch.is_grad_enabled() and q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _unfused(q, k, v, mask)
    grouped = q.shape[1] != k.shape[1]
    if mask is None:
        return scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask.mask, enable_gqa=grouped)
    return mixed.masked_fill(mask.empty, 0.0)


def attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Attention within each sequence of a row: q [1, H, Lq, K], k and v [1, G, Lk, K] -> like q.

    Neighbours of one shape are computed together, so nothing is padded and no mask is made.
    """
    grouped = q.shape[1] != k.shape[1]
    parts = []
    asked = held = 0
    for (queries, keys), run in groupby(zip(packing.queries, packing.keys, strict=True)):
        count = len(list(run))
        rows, columns = slice(asked, asked + count * queries), slice(held, held + count * keys)
        asked, held = rows.stop, columns.stop
        if not queries:
            continue
        mixed = scaled_dot_product_attention(
            _stacked(q[:, :, rows], count),
            _stacked(k[:, :, columns], count),
            _stacked(v[:, :, columns], count),
            enable_gqa=grouped,
        )
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole[None].transpose(1, 2)


def _stacked(x: Tensor, count: int) -> Tensor:
    """A view of `count` equal sequences: [1, H, count * L, K] -> [count, H, L, K]."""
    heads, length, width = x.shape[1:]
    return x.view(heads, count, length // count, width).transpose(0, 1)


def _unfused(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """`attend` as two matrix products and a softmax.

    For training in bfloat16 on a CPU: the backward pass of the fused kernel takes four times as
    long there.
    """
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    # queries are scaled, not scores, which are far more numbers
    rows = (q * width**-0.5).reshape(batch, groups, heads // groups * length, width)
    scores = (rows @ k.mT).view(batch, heads, length, -1)
    if mask is not None:
        with torch.no_grad():  # attention weights of 0 have no gradient anyway
            scores.masked_fill_(~mask.mask, -torch.inf)
    attention = scores.softmax(-1).view(batch, groups, heads // groups * length, -1)
    mixed: Tensor = (attention @ v).view(batch, heads, length, width)
    return mixed if mask is None else mixed.masked_fill(mask.empty, 0.0)

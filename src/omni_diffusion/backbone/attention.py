"""Who sees whom, where places stand, and the attention itself; knows no weights.

Dimensions: B batch, L places, H query heads, G key-value heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Visibility:
    """Which places each place may attend to.

    A place that sees nobody gets a zero attention output. Softmax over nothing differs between
    kernels (zeros or NaN), so its row of `mask` is opened and its output is wiped by `blind`.
    """

    mask: Tensor  # bool [B, 1, Lq, Lk], True = may attend; rows of the blind are all True
    blind: Tensor  # bool [B, 1, Lq, 1], True = sees nobody

    @classmethod
    def of(cls, mask: Tensor) -> Visibility:
        """From a bool mask [B, 1, Lq, Lk] in which True lets the query attend to the key."""
        blind = ~mask.any(dim=-1, keepdim=True)
        return cls(mask | blind, blind)

    @classmethod
    def of_segments(cls, segments: Tensor) -> Visibility:
        """From segment numbers [B, L]: the same number sees each other, 0 is padding."""
        same = segments[:, :, None] == segments[:, None, :]
        return cls.of((same & (segments > 0)[:, None, :])[:, None])

    def from_place(self, start: int) -> Visibility:
        """The same for the queries of places start.. only (all keys stay)."""
        return Visibility(self.mask[:, :, start:], self.blind[:, :, start:])


def segment_starts(segments: Tensor) -> Tensor:
    """Mark each place whose left neighbour is of another segment: [B, L] -> bool [B, L]."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def segment_positions(segments: Tensor) -> Tensor:
    """Count places from 0 within every segment: [B, L] -> [B, L]."""
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.where(segment_starts(segments), places, 0).cummax(dim=1).values
    return places - first


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
    """Turn queries or keys [B, H, L, K] by the angles of their places, tables [B, 1, L, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility | None) -> Tensor:
    """Both-way attention: q [B, H, Lq, K], k and v [B, G, Lk, K] -> [B, H, Lq, K].

    Key-value head g serves query heads g*H/G .. (g+1)*H/G - 1; the scale is 1/sqrt(K). Without
    `visibility` everybody sees everybody and the kernels that take no mask stay open.
    """
    if torch.is_grad_enabled() and q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _plain(q, k, v, visibility)
    grouped = q.shape[1] != k.shape[1]
    if visibility is None:
        return scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=visibility.mask, enable_gqa=grouped)
    return mixed.masked_fill(visibility.blind, 0.0)


def _plain(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility | None) -> Tensor:
    """The same as two products and a softmax.

    For training in bfloat16 on a CPU, whose fused kernel takes four times as long going back.
    """
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    # the scale goes to the queries, of which there are far fewer numbers than scores
    rows = (q * width**-0.5).reshape(batch, groups, heads // groups * length, width)
    scores = (rows @ k.mT).view(batch, heads, length, -1)
    if visibility is not None:
        with torch.no_grad():  # shares of 0 send no gradient as it is
            scores.masked_fill_(~visibility.mask, -torch.inf)
    shares = scores.softmax(-1).view(batch, groups, heads // groups * length, -1)
    mixed: Tensor = (shares @ v).view(batch, heads, length, width)
    return mixed if visibility is None else mixed.masked_fill(visibility.blind, 0.0)

"""Attention masks, and masks that exclude padding from a batch.

A padding mask is [B, 1, T], 1 on audio and 0 on padding, or None without padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def block_causal(positions: Tensor, block: int) -> Tensor:
    """Positions [T] -> [T, T], True where a query (row) attends to a key: past and own block."""
    query, key = positions[:, None], positions[None, :]
    return (key <= query) | (key // block == query // block)


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """[B, C, T] with zeros on padding."""
    return x if mask is None else x * mask


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with mean and variance over audio only, so that rows are independent."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, C, T] -> [B, C, T]; without a mask this is the plain group norm."""
        if mask is None:
            return super().forward(input)
        groups = torch.unflatten(input, 1, (self.num_groups, -1))  # [B, G, C / G, T]
        weight = mask[:, None] / (mask.sum(-1)[:, None, None] * groups.shape[2])
        mean = (groups * weight).sum((2, 3), keepdim=True)
        centred = groups - mean
        variance = (centred**2 * weight).sum((2, 3), keepdim=True)
        normal = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        out: Tensor = normal * self.weight[:, None] + self.bias[:, None]
        return out

"""What a place may see, and how padding stays out of a batch's sums.

Knows only masks: [B, 1, T] with 1 on sound and 0 on padding, or None where nothing is padded.
"""

import torch
from torch import Tensor, nn


def block_causal(places: Tensor, block: int) -> Tensor:
    """[T] places -> [T, T], True where a query (row) may see a key: its past and its own block."""
    query, key = places[:, None], places[None, :]
    return (key <= query) | (key // block == query // block)


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """[B, C, T] with silence on padding."""
    return x if mask is None else x * mask


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm whose mean and variance leave padding out, so that a row ignores its batch."""

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

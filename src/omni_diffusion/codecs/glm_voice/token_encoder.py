"""Speech codes -> one vector per mel frame: the part of the flow decoder that runs once.

A pre-norm transformer with relative positions attends to blocks of codes and their past. The length
regulator stretches its output to mel frames. Sources: ESPnet's relative positions (Transformer-XL,
appendix B) and GLM-4-Voice's published decoder.

Dimensions: B batch, N codes, M mel frames, D width, H heads, C mel bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.masks import MaskedGroupNorm, block_causal, hide
from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config as configs


@dataclass(frozen=True)
class TokenEncoderConfig:
    """Sizes of the token encoder. block_size: in codes."""

    input_size: int = 512
    width: int = 512
    heads: int = 8
    ffn: int = 2048
    blocks: int = 6
    block_size: int = 10

    def __post_init__(self) -> None:
        widths = ("input_size", "width", "heads", "ffn", "block_size")
        configs.check_ranges(self, **dict.fromkeys(widths, configs.WIDTH), blocks=configs.DEPTH)
        if self.width % self.heads or self.width % 2:
            raise ConfigError(
                f"encoder width {self.width} with {self.heads} heads",
                field="width",
                value=self.width,
                fix="give an even multiple of heads",
            )


class TokenEncoder(nn.Module):
    """Embedded codes -> contextual vectors; parameters have the published names."""

    def __init__(self, config: TokenEncoderConfig) -> None:
        super().__init__()
        self.config = config
        entry = nn.Sequential(
            nn.Linear(config.input_size, config.width), nn.LayerNorm(config.width)
        )
        self.embed = nn.ModuleDict({"out": entry})
        self.encoders = nn.ModuleList(RelativeBlock(config) for _ in range(config.blocks))
        self.after_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B, N, input_size] -> [B, N, D]; `valid` [B, N] is False on padding."""
        length, width = x.shape[1], self.config.width
        index = torch.arange(length, device=x.device)
        allowed = block_causal(index, self.config.block_size)[None, None]
        if valid is not None:
            allowed = allowed & valid[:, None, None, :]
        table = relative_positions(length, width).to(x)
        h = self.embed["out"](x) * math.sqrt(width)
        for block in self.encoders:
            h = block(h, table, allowed)
        out: Tensor = self.after_norm(h)
        return out


class RelativeBlock(nn.Module):
    """One pre-norm layer: relative attention, then a SiLU feed-forward."""

    def __init__(self, config: TokenEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = RelativeAttention(width, config.heads)
        self.feed_forward = FeedForward(width, config.ffn)
        self.norm_mha = nn.LayerNorm(width)
        self.norm_ff = nn.LayerNorm(width)

    def forward(self, x: Tensor, table: Tensor, allowed: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.self_attn(self.norm_mha(x), table, allowed)
        hidden: Tensor = self.feed_forward(self.norm_ff(x))
        return x + hidden


class FeedForward(nn.Module):
    """w_2(silu(w_1 x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class RelativeAttention(nn.Module):
    """score[i, j] = ((q_i + u) . k_j + (q_i + v) . P(i - j)) / sqrt(d), per head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: Tensor, table: Tensor, allowed: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]; `table` [2N - 1, D], `allowed` [B or 1, 1, N, N]."""
        length = x.shape[1]
        q, k, v = (self._split(proj(x)) for proj in (self.linear_q, self.linear_k, self.linear_v))
        positions = self._split(self.linear_pos(table)[None])  # [1, H, 2N - 1, d]
        by_offset = (q + self.pos_bias_v[:, None]) @ positions.mT / math.sqrt(q.shape[-1])
        index = torch.arange(length, device=x.device)
        column = length - 1 - index[:, None] + index[None, :]  # of the offset i - j
        bias = by_offset.gather(-1, column.expand(*q.shape[:2], length, length))
        bias = bias.masked_fill(~allowed, -torch.inf)
        mixed = F.scaled_dot_product_attention(q + self.pos_bias_u[:, None], k, v, attn_mask=bias)
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(-2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class LengthRegulator(nn.Module):
    """Nearest-neighbour stretch from codes to mel frames, smoothed by four convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv1d(channels, channels, 3, padding=1)]
            layers += [MaskedGroupNorm(1, channels), nn.Mish()]
        self.model = nn.ModuleList([*layers, nn.Conv1d(channels, channels, 1)])

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Stretched codes [B, C, M] -> mu [B, C, M]."""
        for layer in self.model:
            normed = isinstance(layer, MaskedGroupNorm)
            h = layer(h, mask) if normed else layer(hide(h, mask))
        return hide(h, mask)


def stretch_rows(h: Tensor, codes: list[int], spans: list[int], frames: int) -> Tensor:
    """Stretch row b, [:codes[b]], to spans[b] frames: [B, C, N] -> [B, C, frames]."""
    rows = []
    for row, n, m in zip(h, codes, spans, strict=True):
        stretched = F.interpolate(row[None, :, :n], size=m, mode="nearest")
        rows.append(F.pad(stretched, (0, frames - m)))
    return torch.cat(rows)


def relative_positions(length: int, width: int) -> Tensor:
    """Interleaved sines and cosines of the offsets length - 1 ... -(length - 1)."""
    offsets = torch.arange(length - 1, -length, -1.0)
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = offsets[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)

"""The velocity network of the flow decoder: a one-dimensional U-Net over mel frames.

Maps a noisy mel, its time and its conditions to dx/dt. Parameters have the published names
(Matcha-TTS's decoder as GLM-4-Voice configures it).

Dimensions: B batch, M mel frames, T frames at either resolution, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.masks import MaskedGroupNorm, hide
from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config as configs

NORM_GROUPS = 8


@dataclass(frozen=True)
class EstimatorConfig:
    """Sizes of the U-Net.

    padding: treatment of padded frames in a batch of unequal lengths. "hidden" makes rows
    independent; "upstream" is the published code, which adds its 0/1 mask to the attention scores
    and normalizes over padding. Without padding both are equal.
    """

    channels: int = 256
    heads: int = 8
    head_dim: int = 64
    n_blocks: int = 4
    mid_blocks: int = 12
    padding: Literal["hidden", "upstream"] = "hidden"

    def __post_init__(self) -> None:
        configs.check_ranges(
            self,
            channels=configs.WIDTH,
            heads=configs.DEPTH,
            head_dim=configs.WIDTH,
            n_blocks=(0, 256),
            mid_blocks=(0, 256),
        )
        if self.channels % NORM_GROUPS:
            raise ConfigError(
                f"estimator channels {self.channels}",
                field="channels",
                value=self.channels,
                fix=f"give a multiple of {NORM_GROUPS}",
            )


@dataclass(frozen=True)
class Level:
    """Padding at one resolution.

    mask: [B, 1, T], 1 on audio; None without padding. scores: the attention mask, boolean
    [B, 1, 1, T] or additive [B, 1, T, T].
    """

    mask: Tensor | None
    scores: Tensor | None


class Estimator(nn.Module):
    """v(x, t | mu, speaker, cond) with one halving of the frame rate."""

    def __init__(self, config: EstimatorConfig, mel_bins: int) -> None:
        super().__init__()
        self.config = config
        c, inputs = config.channels, 4 * mel_bins
        self.time_mlp = TimeEmbedding(inputs, 4 * c)
        same = [nn.Conv1d(c, c, 3, padding=1) for _ in range(2)]
        self.down_blocks = nn.ModuleList(
            [Stage(config, inputs, Halve(c)), Stage(config, c, same[0])]
        )
        self.mid_blocks = nn.ModuleList(Stage(config, c) for _ in range(config.mid_blocks))
        self.up_blocks = nn.ModuleList(
            [Stage(config, 2 * c, Double(c)), Stage(config, 2 * c, same[1])]
        )
        self.final_block = ConvBlock(c, c, config)
        self.final_proj = nn.Conv1d(c, mel_bins, 1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mu: Tensor,
        speaker: Tensor,
        cond: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, bins, M] at time t [B] of x, mu, cond [B, bins, M] and speaker [B, bins].

        mask: [B, 1, M], 1 on audio; None without padding.
        """
        time = self.time_mlp(t)
        speakers = speaker[:, :, None].expand(-1, -1, x.shape[-1])
        h = torch.cat([x, mu, speakers, cond], dim=1)
        full = self._level(mask)
        half = self._level(None if mask is None else mask[..., ::2])
        skips = []
        for stage, level in zip(self.down_blocks, (full, half), strict=True):
            skip, h = stage(h, time, level)
            skips.append(skip)
        for stage in self.mid_blocks:
            _, h = stage(h, time, half)
        for stage, level in zip(self.up_blocks, (half, full), strict=True):
            skip = skips.pop()
            # An odd length, halved and doubled, has one frame too many.
            h = torch.cat([h[..., : skip.shape[-1]], skip], dim=1)
            _, h = stage(h, time, level)
        h = self.final_block(h, mask)
        return hide(self.final_proj(hide(h, mask)), mask)

    def _level(self, mask: Tensor | None) -> Level:
        if mask is None:
            return Level(None, None)
        if self.config.padding == "upstream":
            return Level(mask, (mask.mT * mask)[:, None])
        return Level(mask, mask[:, None].bool())


class Stage(nn.ModuleList):
    """Residual block, transformers and, except in the middle, a resize, in the published order."""

    def __init__(
        self, config: EstimatorConfig, inputs: int, resize: nn.Module | None = None
    ) -> None:
        residual = Residual(inputs, config)
        transformers = nn.ModuleList(Transformer(config) for _ in range(config.n_blocks))
        super().__init__([residual, transformers, *([] if resize is None else [resize])])

    def forward(self, h: Tensor, time: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """[B, inputs, T] -> the output [B, C, T] before and after resizing."""
        residual, transformers, *resize = self
        assert isinstance(transformers, nn.ModuleList)
        # contiguous: else every norm and sum of the transformers walks the frames in strides
        h = residual(h, time, level.mask).transpose(1, 2).contiguous()
        for transformer in transformers:
            h = transformer(h, level.scores)
        h = h.transpose(1, 2)
        return h, resize[0](hide(h, level.mask)) if resize else h


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 t, then Linear, SiLU, Linear."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(size, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[B] -> [B, width]."""
        half = self.linear_1.in_features // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000.0) / (half - 1)))
        angles = 1000.0 * t[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        out: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return out


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish."""

    def __init__(self, inputs: int, outputs: int, config: EstimatorConfig) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.block = nn.ModuleList([conv, MaskedGroupNorm(NORM_GROUPS, outputs)])
        self.norm_sees_padding = config.padding == "upstream"

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, inputs, T] -> [B, outputs, T]."""
        conv, norm = self.block
        h = norm(conv(hide(x, mask)), None if self.norm_sees_padding else mask)
        return hide(F.mish(h), mask)


class Residual(nn.Module):
    """Two convolution blocks around the time embedding, beside a 1x1 shortcut."""

    def __init__(self, inputs: int, config: EstimatorConfig) -> None:
        super().__init__()
        c = config.channels
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(4 * c, c))
        self.block1 = ConvBlock(inputs, c, config)
        self.block2 = ConvBlock(c, c, config)
        self.res_conv = nn.Conv1d(inputs, c, 1)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor | None) -> Tensor:
        """[B, inputs, T], time [B, 4 C] -> [B, C, T]."""
        h = self.block1(x, mask) + self.mlp(time)[:, :, None]
        out: Tensor = self.res_conv(hide(x, mask)) + self.block2(h, mask)
        return out


class Transformer(nn.Module):
    """Pre-norm self-attention over all frames, then a GELU feed-forward four times as wide."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        c = config.channels
        self.norm1 = nn.LayerNorm(c)
        self.attn1 = FrameAttention(config)
        self.norm3 = nn.LayerNorm(c)
        # Module 1 of the published list is a dropout of 0.
        net = nn.Sequential(GeluLinear(c, 4 * c), nn.Identity(), nn.Linear(4 * c, c))
        self.ff = nn.ModuleDict({"net": net})

    def forward(self, x: Tensor, scores: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attn1(self.norm1(x), scores)
        hidden: Tensor = self.ff["net"](self.norm3(x))
        return x + hidden


class GeluLinear(nn.Module):
    """GELU of a linear map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.gelu(self.proj(x))


class FrameAttention(nn.Module):
    """Multi-head attention; its inner width, heads x head_dim, may differ from the channels."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.head_dim
        self.to_q = nn.Linear(config.channels, inner, bias=False)
        self.to_k = nn.Linear(config.channels, inner, bias=False)
        self.to_v = nn.Linear(config.channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, config.channels)])

    def forward(self, x: Tensor, scores: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(-2))
        return out


class Halve(nn.Module):
    """Half the frame rate, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, ceil(T / 2)]."""
        out: Tensor = self.conv(x)
        return out


class Double(nn.Module):
    """Twice the frame rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2 T]."""
        out: Tensor = self.conv(x)
        return out

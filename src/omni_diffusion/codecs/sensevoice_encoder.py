"""The encoder of SenseVoiceSmall: sizes, positions and SANM layers, under the published names.

Dimensions: B rows, T frames, D width, H heads, W = n_mels * lfr_m, width of the features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config as configs
from omni_diffusion.media import Resampling


@dataclass(frozen=True)
class SenseVoiceConfig:
    """Sizes of the front end and of the encoder; the defaults are those of SenseVoiceSmall.

    query_ids: rows of the query table put before the audio: language (0 auto, 3 zh, 4 en, 7 yue,
    11 ja, 12 ko, 13 none), event, emotion, and 14 with or 15 without text normalization.
    posenc_dtype: "bfloat16" computes the sinusoids in bfloat16 whatever the dtype of the weights,
    as the published Omni-Diffusion was trained.
    resampling: from other rates to 16 kHz: "sinc" as published, "soxr" as the small model was
    trained. dither: 0, so that features are reproducible; the published front end has 1.0.
    """

    n_mels: int = 80
    lfr_m: int = 7
    lfr_n: int = 6
    dither: float = 0.0
    dim: int = 512
    heads: int = 4
    ffn: int = 2048
    blocks: int = 50
    tp_blocks: int = 20
    kernel: int = 11
    query_count: int = 16
    query_ids: tuple[int, ...] = (0, 1, 2, 15)
    posenc_dtype: Literal["float32", "bfloat16"] = "float32"
    ctc_size: int = 0
    dropout: float = 0.1
    resampling: Resampling = "soxr"

    def __post_init__(self) -> None:
        widths, counts = ("dim", "heads", "ffn"), ("n_mels", "lfr_m", "lfr_n", "kernel")
        configs.check_ranges(
            self,
            **dict.fromkeys(widths, configs.WIDTH),
            **dict.fromkeys((*counts, "query_count"), (1, 1024)),
            blocks=configs.DEPTH,
            tp_blocks=(0, 256),
            ctc_size=(0, 2**20),
            dither=(0, 100),
            dropout=(0, 1),
        )
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} is not a multiple of heads {self.heads}",
                field="dim",
                value=self.dim,
                fix="change one of them",
            )
        if self.kernel % 2 == 0:
            raise ConfigError(
                f"kernel is {self.kernel}", field="kernel", value=self.kernel, fix="give an odd one"
            )
        if not all(0 <= query < self.query_count for query in self.query_ids):
            raise ConfigError(
                f"query_ids are {self.query_ids}",
                field="query_ids",
                value=self.query_ids,
                fix=f"give ids in 0..{self.query_count - 1} (query_count)",
            )

    @classmethod
    def official(cls) -> SenseVoiceConfig:
        """The encoder inside the Omni-Diffusion checkpoint."""
        return cls(posenc_dtype="bfloat16", resampling="sinc")

    @classmethod
    def mini(cls, ctc_size: int = 0) -> SenseVoiceConfig:
        """About 1.2 million weights; trains with CTC on one CPU core."""
        return cls(dim=144, ffn=288, blocks=5, tp_blocks=1, ctc_size=ctc_size)

    @property
    def feature_width(self) -> int:
        """Width of one row of features."""
        return self.n_mels * self.lfr_m

    @property
    def queries(self) -> int:
        """The number of query frames before the audio frames."""
        return len(self.query_ids)


def sinusoids(length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Position rows [length, width] for positions 1..length, every operation in `dtype`.

    First half sin(p r_i), second half cos(p r_i), r_i = exp(-i ln(10000) / (width / 2 - 1)).
    """
    half = width // 2
    step = torch.tensor(10_000.0, dtype=dtype, device=device).log() / (half - 1)
    rates = torch.exp(torch.arange(half, device=device).to(dtype) * -step)
    phases = torch.arange(1, length + 1, device=device).to(dtype)[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], -1)


class Encoder(nn.Module):
    """Positions, a first layer that changes the width, the main layers, a norm, the last layers."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.dim)
        self.posenc_dtype = config.posenc_dtype
        self.encoders0 = nn.ModuleList([Layer(config.feature_width, config)])
        self.encoders = nn.ModuleList(Layer(config.dim, config) for _ in range(config.blocks - 1))
        self.after_norm = LayerNorm(config.dim)
        self.tp_encoders = nn.ModuleList(Layer(config.dim, config) for _ in range(config.tp_blocks))
        self.tp_norm = LayerNorm(config.dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, W] and which frames are not padding [B, T] (None: all) -> [B, T, D]."""
        x = self.with_positions(x)
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, valid)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, valid)
        out: Tensor = self.tp_norm(x)
        return out

    def with_positions(self, x: Tensor) -> Tensor:
        """Scale [B, T, W] by sqrt(D) and add the positions."""
        dtype = torch.bfloat16 if self.posenc_dtype == "bfloat16" else torch.float32
        return x * self.scale + sinusoids(x.shape[1], x.shape[2], dtype, x.device).to(x.dtype)


class Layer(nn.Module):
    """Pre-norm attention with memory, then a feed-forward part."""

    def __init__(self, width: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.self_attn = MemoryAttention(width, config)
        self.feed_forward = ReluFeedForward(config)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, width] -> [B, T, D]; a layer that changes the width has no first residual."""
        attended = self.dropout(self.self_attn(self.norm1(x), valid))
        x = x + attended if x.shape == attended.shape else attended
        out: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return out


class MemoryAttention(nn.Module):
    """SANM: attention plus a depthwise convolution over the values of all heads (FSMN memory)."""

    def __init__(self, width: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        D, K = config.dim, config.kernel
        self.heads, self.dropout = config.heads, config.dropout
        self.linear_q_k_v = nn.Linear(width, 3 * D)
        self.linear_out = nn.Linear(D, D)
        self.fsmn_block = nn.Conv1d(D, D, K, padding=K // 2, groups=D, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, width] -> [B, T, D]; the memory does not pass through the output layer."""
        q, k, v = self.linear_q_k_v(x).chunk(3, -1)
        mask = None if valid is None else valid[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        q_h, k_h, v_h = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q_h, k_h, v_h, mask, dropout)
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out + self._memory(v, valid)

    def _memory(self, v: Tensor, valid: Tensor | None) -> Tensor:
        keep = None if valid is None else valid[..., None].to(v.dtype)
        v = v if keep is None else v * keep
        memory = self.fsmn_block(v.transpose(1, 2)).transpose(1, 2) + v
        memory = F.dropout(memory, self.dropout, self.training)
        return memory if keep is None else memory * keep


class ReluFeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.dim, config.ffn)
        self.w_2 = nn.Linear(config.ffn, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out: Tensor = self.w_2(self.dropout(self.w_1(x).relu()))
        return out


class LayerNorm(nn.LayerNorm):
    """Layer normalization in float32, whatever the dtype of the weights."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., D] -> [..., D] in the dtype of the input."""
        shape, eps = self.normalized_shape, self.eps
        out = F.layer_norm(input.float(), shape, self.weight.float(), self.bias.float(), eps)
        return out.to(input.dtype)

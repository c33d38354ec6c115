"""Weights of the blocks' linear layers in 8 or 4 bits; products stay in the dtype of the states.

"int8": symmetric, one scale for each row. "int4": 16 levels between the least and the greatest
weight of each group of 64 in a row. A product turns a few rows at a time back into numbers, so that
they stay in the cache of a CPU and no whole copy is ever in memory. Embeddings, head, norms and the
speech adapter are not quantized.

Dimensions: N outputs, K inputs, G groups of a row.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import ModelError

Quantization: TypeAlias = Literal["int8", "int4"]
ROWS = 512  # of a weight that are turned back into numbers at once
GROUP = 64  # weights of a row that share a scale and a least value, in 4 bits


class QuantizedLinear(nn.Module):
    """A linear layer with quantized weights; it answers and cannot be trained."""

    codes: Tensor
    scales: Tensor
    lows: Tensor

    def __init__(self, linear: nn.Linear, how: Quantization) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.how = how
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scales, lows = _int8(weight) if how == "int8" else _int4(weight)
        self.register_buffer("codes", codes)  # int8 [N, K], or uint8 [N, K / 2]
        self.register_buffer("scales", scales.to(weight.dtype))  # [N, G]
        self.register_buffer("lows", lows.to(weight.dtype))  # [N, G], or empty
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        flat = x.reshape(-1, self.in_features)
        out = flat.new_empty(len(flat), self.out_features)
        for start in range(0, self.out_features, ROWS):
            stop = min(start + ROWS, self.out_features)
            out[:, start:stop] = flat @ self._levels(start, stop, x.dtype).T
        if self.how == "int8":  # fewer outputs than weights have to be scaled
            out *= self.scales.T.to(x.dtype)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows start..stop-1 of the weight, [stop - start, K]."""
        levels = self._levels(start, stop, dtype)
        return levels * self.scales[start:stop].to(dtype) if self.how == "int8" else levels

    def _levels(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The same, but in 8 bits without the scale of each row."""
        codes, scales = self.codes[start:stop], self.scales[start:stop].to(dtype)
        if self.how == "int8":
            return codes.to(dtype)
        halves = torch.stack([codes & 15, codes >> 4], dim=-1)
        levels = halves.view(len(codes), scales.shape[1], -1).to(dtype)
        lows = self.lows[start:stop].to(dtype)
        return levels.mul_(scales[..., None]).add_(lows[..., None]).view(len(codes), -1)


def quantize(backbone: Dream, how: Quantization, device: torch.device | None = None) -> None:
    """Replace the linear layers in place. The model can then neither be trained nor saved.

    device: where the blocks are moved, layer by layer, so that it never holds all of them
    unquantized. Raises ModelError for another `how`, and for a width that 4 bits do not divide.
    """
    quantization(how)
    for block in backbone.model.layers:
        block.to(device)
        for part in (block.get_submodule("self_attn"), block.get_submodule("mlp")):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, QuantizedLinear(child, how))


def quantization(name: str) -> Quantization:
    """Check the name of a quantization; raises ModelError for an unknown one."""
    if name not in get_args(Quantization):
        raise ModelError(
            f"unknown quantization {name!r}",
            field="quantization",
            value=name,
            fix="give int8 or int4",
        )
    return cast(Quantization, name)


def bytes_saved(config: DreamConfig, dtype: torch.dtype, how: Quantization = "int8") -> int:
    """Bytes that quantization saves for a backbone of `dtype`."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes = [  # rows, columns
        *[(queries, config.hidden_size), (config.hidden_size, queries)],
        *[(keys, config.hidden_size)] * 2,
        *[(config.intermediate_size, config.hidden_size)] * 2,
        (config.hidden_size, config.intermediate_size),
    ]
    saved = 0
    for rows, columns in shapes:
        group = _group(columns)
        codes = columns if how == "int8" else columns // 2
        numbers = 1 if how == "int8" else 2 * (columns // group)
        saved += rows * (columns * dtype.itemsize - codes - numbers * dtype.itemsize)
    return config.num_layers * saved


def _int8(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [N, K] of -127..127 and scales [N, 1]."""
    scales = _stored(weight.float().abs().amax(1, keepdim=True) / 127, weight.dtype)
    codes = (weight.float() / scales).round_().clamp_(-127, 127).to(torch.int8)
    return codes, scales, weight.new_empty(0)


def _int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [N, K / 2], two in a byte, with scales and least values [N, G]."""
    rows, columns = weight.shape
    groups = weight.float().view(rows, -1, _group(columns))
    lows = groups.amin(2).to(weight.dtype).float()
    scales = _stored((groups.amax(2) - lows) / 15, weight.dtype)
    levels = ((groups - lows[..., None]) / scales[..., None]).round_().clamp_(0, 15)
    levels = levels.to(torch.uint8).view(rows, -1)
    return levels[:, ::2] | (levels[:, 1::2] << 4), scales, lows


def _stored(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as they are stored, in float32; 1 where nothing has to be scaled."""
    rounded = scales.to(dtype).float()
    return torch.where(rounded == 0, 1.0, rounded)


def _group(columns: int) -> int:
    """Weights of a group: 64, or the whole row where 64 does not divide it."""
    return GROUP if columns % GROUP == 0 else columns

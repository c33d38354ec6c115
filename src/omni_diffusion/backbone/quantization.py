"""Weights of the blocks' linear layers in 8 bits: a quarter of float32, half of bfloat16.

Each row of a weight has a scale. Products are computed in the dtype the weights had. Embeddings,
head, norms and the speech adapter are not quantized. Needs torchao.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import ModelError
from omni_diffusion.io import optional

Quantization: TypeAlias = Literal["int8"]
ROW_BYTES = 5  # a float32 scale and an 8-bit zero


def quantize(backbone: Dream, how: Quantization, device: torch.device | None = None) -> None:
    """Replace the weights in place. The model can then neither be trained nor saved.

    device: where the blocks are moved, layer by layer, so that it never holds all of them
    unquantized. Raises ModelError for another `how`, MissingDependencyError without torchao.
    """
    quantization(how)
    torchao = optional.require("torchao.quantization", "quant")
    torchao.quantize_(backbone.model.layers, torchao.Int8WeightOnlyConfig(), device=device)


def quantization(name: str) -> Quantization:
    """Check the name of a quantization; raises ModelError for an unknown one."""
    if name == "int8":
        return "int8"
    raise ModelError(
        f"unknown quantization {name!r}", field="quantization", value=name, fix="give int8"
    )


def bytes_saved(config: DreamConfig, dtype: torch.dtype) -> int:
    """Bytes that quantization saves for a backbone of `dtype`."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes = [  # rows, columns
        *[(queries, config.hidden_size), (config.hidden_size, queries)],
        *[(keys, config.hidden_size)] * 2,
        *[(config.intermediate_size, config.hidden_size)] * 2,
        (config.hidden_size, config.intermediate_size),
    ]
    weights = sum(rows * columns for rows, columns in shapes)
    rows = sum(rows for rows, _ in shapes)
    return config.num_layers * (weights * (dtype.itemsize - 1) - rows * ROW_BYTES)

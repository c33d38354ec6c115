"""The blocks' linear layers with weights of 8 bits: a fourth of float32, half of bfloat16.

Each row of a weight has its own scale; products are computed in the type that the weights had.
Embeddings, head, norms and the speech adapter stay as they are. Needs torchao.
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
    """Replace the weights in place, for inference; they are not to be trained or written.

    device: where the blocks are brought first, layer by layer, so that it never holds them whole.
    Raises ModelError for another `how`, and without torchao.
    """
    quantization(how)
    torchao = optional.need("torchao.quantization", "quant")
    torchao.quantize_(backbone.model.layers, torchao.Int8WeightOnlyConfig(), device=device)


def quantization(name: str) -> Quantization:
    """The quantization called `name`; raises ModelError for another name."""
    if name == "int8":
        return "int8"
    raise ModelError(f"no quantization is called {name!r}; give int8")


def bytes_saved(config: DreamConfig, dtype: torch.dtype) -> int:
    """How many bytes fewer a backbone of `dtype` takes when it is quantized."""
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

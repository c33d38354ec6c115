"""The data type that a backbone computes in: its names, and the one place that chooses it."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal, TypeAlias, cast, get_args

import torch

from omni_diffusion.errors import ModelError
from omni_diffusion.io.config import shown

DtypeName = Literal["float32", "bfloat16", "float16"]
"""What a config.json may say."""

AUTO = "auto"  # what config.json says; where a model is opened, bfloat16 if it is faster there
BACKBONE_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in get_args(DtypeName)
}
DtypeChoice: TypeAlias = torch.dtype | str | None
"""A dtype or its name; None and "auto" take what config.json says.

`OmniModel.open` takes "auto" for `faster_dtype`.
"""
WIDE = 512  # hidden size from which matrix products take most of a step
WORTH = 1.5  # times as fast as float32, from which bfloat16 is worth its roundings
ROWS, WIDTH = 256, 1024  # a product as in a short canvas: [256, 1024] x [1024, 1024]


def compute_dtype(asked: DtypeChoice, stated: torch.dtype) -> torch.dtype:
    """The dtype that a backbone computes in.

    asked: of the caller. stated: of the model's config.json, taken where nothing is asked. Raises
    ModelError for a dtype that no backbone computes in.
    """
    return stated if asked is None or asked == AUTO else checked_dtype(asked)


def faster_dtype(stated: torch.dtype, device: torch.device, hidden_size: int) -> torch.dtype:
    """bfloat16 for a float32 model where the device's matrix products are much faster in it.

    That is so with AMX or AVX512-BF16 in a CPU, and on most GPUs. Every other dtype stays, and so
    does float32 in a model that is narrower than `WIDE`: it gains little, and its answers are then
    the same on every machine.
    """
    narrow = hidden_size < WIDE
    if narrow or stated != torch.float32 or bfloat16_speedup(device) < WORTH:
        return stated
    return torch.bfloat16


@cache
def bfloat16_speedup(device: torch.device, seconds: float = 0.1) -> float:
    """How many times as fast as float32 a matrix product is in bfloat16; 0 if it cannot be.

    Measured for about `seconds`, once for each device.
    """
    pairs = {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            x = torch.ones(ROWS, WIDTH, dtype=dtype, device=device)
            w = torch.ones(WIDTH, WIDTH, dtype=dtype, device=device)
            _product_seconds(x, w)  # the first one prepares kernels
        except RuntimeError:
            return 0.0
        pairs[dtype] = (x, w)
    best = dict.fromkeys(pairs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:  # in turn, so that other programs meet both
        for dtype, (x, w) in pairs.items():
            best[dtype] = min(best[dtype], _product_seconds(x, w))
    return best[torch.float32] / best[torch.bfloat16]


def _product_seconds(x: torch.Tensor, w: torch.Tensor) -> float:
    began = time.perf_counter()
    (x @ w)[0, 0].item()  # waits for a GPU
    return time.perf_counter() - began


def checked_dtype(dtype: torch.dtype | str, where: str = "dtype") -> torch.dtype:
    """A dtype or its name as a dtype of a backbone; raises ModelError, which names `where`."""
    name = str(dtype).removeprefix("torch.")
    if name not in BACKBONE_DTYPES:
        raise ModelError(
            f"{where} is {shown(dtype)}",
            field="dtype",
            value=dtype,
            fix=f"give one of {', '.join(BACKBONE_DTYPES)}",
        )
    return BACKBONE_DTYPES[name]


def dtype_name(dtype: torch.dtype | str) -> DtypeName:
    """The name that config.json has for a dtype; raises ModelError as `checked_dtype`."""
    return cast(DtypeName, str(checked_dtype(dtype)).removeprefix("torch."))

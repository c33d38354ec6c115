"""The data type that a backbone computes in: its names, and the one place that chooses it."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import torch

from omni_diffusion.errors import ModelError
from omni_diffusion.io.config import shown

DtypeName = Literal["float32", "bfloat16", "float16"]
"""What a config.json may say."""

AUTO = "auto"  # what config.json says
BACKBONE_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in get_args(DtypeName)
}
DtypeChoice: TypeAlias = torch.dtype | str | None
"""A dtype or its name; None and "auto" take what config.json says."""


def compute_dtype(asked: DtypeChoice, stated: torch.dtype) -> torch.dtype:
    """The dtype that a backbone computes in.

    asked: of the caller. stated: of the model's config.json, taken where nothing is asked. Raises
    ModelError for a dtype that no backbone computes in.
    """
    return stated if asked is None or asked == AUTO else checked_dtype(asked)


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

"""Loads weights into a module: opens the source and folds weight norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from torch import Tensor, nn

from omni_diffusion.io import weights

Source: TypeAlias = str | Path | Mapping[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


def fill(
    module: Module, source: Source, rename: Callable[[str], str | None] | None = None
) -> Module:
    """The module with weights from a file, a folder with one, or tensors; in eval mode.

    rename: published name -> the module's name, None = skip. Raises WeightsError if names or shapes
    do not fit the module.
    """
    if isinstance(source, Mapping):
        tensors, where = source, "the given tensors"
    else:
        tensors, where = weights.read_tensors(source), f"the weights at {source}"
    weights.load_into(module, fold_weight_norm(tensors), rename=rename, where=where)
    return module.eval()


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair weight_g, weight_v by weight = g v / |v|, normed over all but dim 0."""
    folded = dict(tensors)
    for name in tensors:
        stem = name.removesuffix("_g")
        if name.endswith(".weight_g") and stem + "_v" in folded:
            g, v = folded.pop(name), folded.pop(stem + "_v")
            folded[stem] = v * (g / v.flatten(1).norm(dim=1).view_as(g))
    return folded

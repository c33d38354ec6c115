"""A training state on disk: one safetensors file, written whole or not at all.

It holds the weights, their moving average, the optimizer's moments and the step, which is all that
exact resume needs: every random draw is derived from (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omni_diffusion import weights
from omni_diffusion.errors import TrainingError

_STEP = "step"


def pack(
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[str, Tensor]:
    """Everything as one flat mapping of names to tensors."""
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors | {_STEP: torch.tensor(step)}


def save(
    path: Path,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write the state; the file before it stays until the new one is whole."""
    weights.write(pack(module, average, optimizer, step), path)


def restore(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Read a state back into its owners and return its step."""
    tensors = weights.read(path)
    if _STEP not in tensors:
        raise TrainingError(f"{path} is no training checkpoint: it holds no step; name another")
    weights.load_into(module, _part(tensors, "model."), where=str(path))
    for name, value in _part(tensors, "average.").items():
        average[name].copy_(value)
    moments: dict[int, dict[str, Any]] = {}
    for name, value in _part(tensors, "optim.").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    state = optimizer.state_dict()
    state["state"] = moments
    optimizer.load_state_dict(state)
    return int(tensors[_STEP])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

"""A training state on disk: one safetensors file, written whole or not at all.

It holds the weights, their moving average, the optimizer's moments and the step, which is all that
exact resume needs: every random draw is derived from (seed, step).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from omni_diffusion import weights
from omni_diffusion.errors import TrainingError, WeightsError

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
    # One file however large: only a single file can take the place of another in one move.
    weights.write(pack(module, average, optimizer, step), path, max_shard_bytes=sys.maxsize)


def restore(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Read a state back into its owners and return its step.

    Raises TrainingError for a broken file or another trainable part, WeightsError for weights of
    another model.
    """
    try:
        tensors = weights.read(path)
    except WeightsError as error:
        raise TrainingError(
            f"{path} is no whole training state; put a copy back, or remove it to begin anew"
        ) from error
    if _STEP not in tensors:
        raise TrainingError(f"{path} is no training checkpoint: it holds no step; name another")
    weights.load_into(module, _part(tensors, "model."), where=str(path))
    moments = _moments(_part(tensors, "optim."), optimizer, path)
    for name, value in _part(tensors, "average.").items():
        average[name].copy_(value)
    state = optimizer.state_dict()
    state["state"] = moments
    optimizer.load_state_dict(state)
    return int(tensors[_STEP])


def _moments(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, path: Path
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by number of the parameter, counted over its groups."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        index = int(number)
        if index >= len(parameters) or (value.ndim and value.shape != parameters[index].shape):
            raise TrainingError(
                f"{path} was made with other parts trainable: its {key} {list(value.shape)} of "
                f"parameter {index} fits nothing here; train the same parts or begin anew"
            )
        if value.ndim:  # back into the memory layout of the weight, which the file does not keep
            value = torch.empty_like(parameters[index], dtype=value.dtype).copy_(value)
        moments.setdefault(index, {})[key] = value
    return moments


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

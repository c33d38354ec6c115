"""AdamW, and a cosine learning-rate schedule with warm-up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from omni_diffusion.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule; betas, eps and the cosine with warm-up are the paper's.

    lr: peak learning rate. warmup: steps of linear warm-up. weight_decay: of matrices; biases and
    norms are not decayed. clip: largest gradient norm. floor: the cosine ends at `floor * lr`.
    """

    lr: float = 1e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        for name, valid, fix in (
            ("lr", self.lr > 0, "give a positive learning rate"),
            ("warmup", self.warmup >= 0, "give 0 or more steps"),
            ("floor", 0 <= self.floor <= 1, "give a number from 0 to 1"),
        ):
            if not valid:
                value = getattr(self, name)
                raise ConfigError(f"{name} is {value}", field=name, value=value, fix=fix)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of a step (from 0): linear warm-up, then half a cosine to the floor."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.floor + (1 - config.floor) * cosine)


def adamw(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all trainable parameters, with its state; weight decay on matrices only."""
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    # AdamW makes its state in the first step; made here, a state saved before it is complete too
    for parameter in trained:
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer

"""Optimizer and learning-rate schedule: AdamW with a cosine that warms up.

Knows nothing of what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from omni_diffusion.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW's numbers; the paper's are beta = (0.9, 0.95), eps = 1e-8, cosine with warm-up.

    `floor` is the share of the peak rate that the cosine ends on.
    """

    lr: float = 1e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ConfigError(
                f"lr {self.lr}, warmup {self.warmup}, floor {self.floor}: expected a positive "
                "rate, no negative warm-up and a floor between 0 and 1"
            )


def rate(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of a step, counted from 0: linear up, then half a cosine down."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    past = (step - config.warmup) / max(1, steps - config.warmup)
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, past)))
    return config.lr * (config.floor + (1 - config.floor) * share)


def adamw(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over everything that is trainable; only matrices decay."""
    trained = [p for m in modules for p in m.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    for parameter in trained:  # as it does itself in its first step: a saved state is always whole
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer

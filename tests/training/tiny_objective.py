"""Something that trains in no time: a few layers with every kind of state of a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Matrices and vectors, dropout, running statistics, a counter and a frozen part."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(width, 1)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        nn.init.eye_(self.frozen.weight)  # the same whatever the seed, as a base model is
        nn.init.zeros_(self.frozen.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4] -> [B, 1]."""
        y: Tensor = self.last(self.dropout(self.norm(self.first(self.frozen(x))).relu()))
        return y


class Sums:
    """Learn the sum of four numbers; from `poisoned` on, what is learned from is spoilt.

    poison: factor of the loss in that step. crash: the step in which the process dies.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        poisoned: int | None = None,
        poison: float = float("nan"),
        crash: int | None = None,
        width: int = 6,
    ) -> None:
        torch.manual_seed(seed)
        self.net = Small(width)
        self.poisoned, self.poison, self.crash = poisoned, poison, crash
        self.steps: list[int] = []

    @property
    def module(self) -> nn.Module:
        return self.net

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == self.crash:
            raise MemoryError("killed")
        self.steps.append(step)
        x = torch.randn(8, 4, generator=generator)
        loss = (self.net(x)[:, 0] - x.sum(1)).square().mean()
        if step == self.poisoned:
            loss = loss * self.poison
        return loss, {"step_seen": float(step)}

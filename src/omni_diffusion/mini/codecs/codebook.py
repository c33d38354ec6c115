"""A codebook updated by exponential moving averages (online k-means).

Each code is the moving average of the vectors that chose it (van den Oord et al. 2017, appendix
A.1); an unused code restarts at a vector of the batch. Dimensions: K codes, D width, n vectors of
a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CodebookConfig:
    """decay: of the averages. dead: a code is dead if it is used less than `dead` times the mean.

    restart_every: steps between restarts of dead codes.
    """

    decay: float = 0.98
    dead: float = 0.1
    restart_every: int = 50


class EmaCodebook(nn.Module):
    """Moving averages of use [K] and sum [K, D] of the codes; the table belongs to the model."""

    use: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("use", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, width))

    @torch.no_grad()
    def start(self, table: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        """Set every row of table [K, D] to a random vector of [n, D] plus a little noise."""
        chosen = torch.randint(len(vectors), (len(table),), generator=generator)
        beside = 0.01 * vectors.std() * torch.randn(table.shape, generator=generator)
        table.copy_(vectors[chosen] + beside)
        self.use.fill_(len(vectors) / len(table))
        self.total.copy_(table * self.use[:, None])

    @torch.no_grad()
    def update(self, table: Tensor, vectors: Tensor, ids: Tensor) -> None:
        """Move the rows of table [K, D] towards the vectors [n, D] that chose them, ids [n]."""
        fresh = 1 - self.config.decay
        self.use.lerp_(torch.bincount(ids, minlength=len(table)).to(self.use), fresh)
        self.total.mul_(1 - fresh).index_add_(0, ids, vectors, alpha=fresh)
        alive = self.use > 1e-3
        table[alive] = self.total[alive] / self.use[alive, None]

    @torch.no_grad()
    def restart(self, table: Tensor, vectors: Tensor, generator: torch.Generator) -> int:
        """Set dead rows to different vectors of [n, D]; returns their number."""
        mean = len(vectors) / len(table)
        dead = (self.use < self.config.dead * mean).nonzero().flatten()[: len(vectors)]
        chosen = torch.randperm(len(vectors), generator=generator)[: len(dead)]
        table[dead] = vectors[chosen]
        self.use[dead] = mean
        self.total[dead] = vectors[chosen] * mean
        return len(dead)

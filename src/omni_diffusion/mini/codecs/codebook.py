"""A codebook that follows the vectors it stands for: k-means, a step at a time.

Each code is the running mean of the vectors that chose it (van den Oord et al. 2017, appendix
A.1); a code that nothing chooses any more moves onto a vector of the batch. Knows nothing of what
is coded. Dimension key: K codes, D width, n vectors of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CodebookConfig:
    """Memory and restarts. A code is dead below `dead` times the mean use."""

    decay: float = 0.98
    dead: float = 0.1
    restart_every: int = 50


class MovingCodebook(nn.Module):
    """Running use and sum of every code; the table itself belongs to the model."""

    use: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("use", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, width))

    @torch.no_grad()
    def start(self, table: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        """Put every row of table [K, D] on a vector of [n, D], a little beside it."""
        chosen = torch.randint(len(vectors), (len(table),), generator=generator)
        beside = 0.01 * vectors.std() * torch.randn(table.shape, generator=generator)
        table.copy_(vectors[chosen] + beside)
        self.use.fill_(len(vectors) / len(table))
        self.total.copy_(table * self.use[:, None])

    @torch.no_grad()
    def follow(self, table: Tensor, vectors: Tensor, ids: Tensor) -> None:
        """Move the rows of table [K, D] towards the vectors [n, D] that chose them, ids [n]."""
        fresh = 1 - self.config.decay
        self.use.lerp_(torch.bincount(ids, minlength=len(table)).to(self.use), fresh)
        self.total.mul_(1 - fresh).index_add_(0, ids, vectors, alpha=fresh)
        alive = self.use > 1e-3
        table[alive] = self.total[alive] / self.use[alive, None]

    @torch.no_grad()
    def restart(self, table: Tensor, vectors: Tensor, generator: torch.Generator) -> int:
        """Move dead rows onto different vectors of [n, D]; says how many."""
        mean = len(vectors) / len(table)
        dead = (self.use < self.config.dead * mean).nonzero().flatten()[: len(vectors)]
        chosen = torch.randperm(len(vectors), generator=generator)[: len(dead)]
        table[dead] = vectors[chosen]
        self.use[dead] = mean
        self.total[dead] = vectors[chosen] * mean
        return len(dead)

"""Fewer steps: which positions are sure enough to be committed together, and Halton's order.

Dimensions: L positions of a canvas, m masked ones.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from omni_diffusion.diffusion.params import SamplingParams

BASES = (2, 3)  # of the Halton sequence, for rows and columns


def sure_count(confidences: Tensor, params: SamplingParams) -> int:
    """How many of the positions may be committed at once; confidences [m] descend.

    With `threshold`: those at or above it (Fast-dLLM, Wu et al. 2025). With `entropy_bound` g: the
    most for which the sum of entropies without the largest is at most g, which bounds the
    dependence between the tokens that are ignored (EB-sampler, Ben-Hamu et al. 2025); at least one.
    0 without either.
    """
    if params.threshold is not None:
        return int((confidences >= params.threshold).sum())
    if params.entropy_bound is not None:
        entropies = -confidences.double()
        before = entropies.cumsum(0) - entropies  # the last one of each set is its largest
        return int((before <= params.entropy_bound).sum())
    return 0


def halton_scores(allowed: Tensor, positions: Tensor, confidences: Tensor) -> Tensor:
    """Scores [m] that sort positions [m] by Halton's order within each picture.

    A picture is a run of positions that take the same ids and whose number is a square: its cells,
    row by row. allowed: int64 [L, 2]. Other positions keep their confidence, a probability, and
    come before every picture.
    """
    ranks = torch.full((len(allowed),), -1.0)
    changes = (allowed[1:] != allowed[:-1]).any(1).nonzero().flatten() + 1
    start = 0
    for stop in [*changes.tolist(), len(allowed)]:
        side = math.isqrt(stop - start)
        if side > 1 and side * side == stop - start:
            ranks[start:stop] = halton_ranks(side).float()
        start = stop
    own = ranks[positions]
    return torch.where(own < 0, confidences, -1 - own)


@cache
def halton_ranks(side: int) -> Tensor:
    """The rank int64 [side * side] of each cell of a square grid, row by row.

    Cells are ranked as the two-dimensional Halton sequence in the bases 2 and 3 first visits them,
    so any first part of the order is spread evenly (Besnier et al. 2025).
    """
    cells, count = side * side, 4 * side * side
    while True:
        rows, columns = ((radical_inverse(count, base) * side).long() for base in BASES)
        visited = (rows * side + columns).tolist()
        order = list(dict.fromkeys(visited))
        if len(order) == cells:
            return torch.tensor(order).argsort()
        count *= 2


def radical_inverse(count: int, base: int) -> Tensor:
    """The digits of 0..count-1 in a base, mirrored at the point: float64 [count] in [0, 1)."""
    rest, result, weight = torch.arange(count), torch.zeros(count, dtype=torch.float64), 1 / base
    while bool(rest.any()):
        result += weight * (rest % base)
        rest, weight = rest // base, weight / base
    return result

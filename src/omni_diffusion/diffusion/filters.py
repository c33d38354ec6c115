"""Top-k, top-p and the draw of a token.

Equal logits always resolve to the lowest token id, on every device.

Dimensions: m positions, V tokens, K kept candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni_diffusion.errors import SamplingError

# Top-p first looks at the PREFIX likeliest tokens, then at WIDEN times as many while the nucleus
# does not fit, so that the whole vocabulary is rarely sorted.
PREFIX, WIDEN = 1024, 8

SMALLEST_BLOCK = 8  # neighbours whose greatest value stands for them; with fewer it costs more

DROPPED = float("-inf")


def top_ids(values: Tensor, k: int) -> Tensor:
    """The ids of the k greatest of values [m, V] -> int64 [m, k], ascending.

    Unlike torch.topk, equal values at the edge resolve to the lowest ids. Raises SamplingError for
    NaN.
    """
    size = values.shape[1]
    block = 2 ** int(math.log2(max(1.0, size / k)) / 2)
    return _top_ids(values, k) if block < SMALLEST_BLOCK else _top_ids_of_blocks(values, k, block)


def _top_ids_of_blocks(values: Tensor, k: int, block: int) -> Tensor:
    """`top_ids` by way of the greatest of each `block` neighbours: one look at the whole.

    The k blocks with the greatest peaks, the first of equal ones, hold the k greatest values: each
    of them has a value that is as great as anything outside of them.
    """
    whole = values.shape[1] // block * block
    peaks = values[:, :whole].reshape(len(values), -1, block).amax(dim=2)
    inside = torch.arange(block, device=values.device)
    ids = (_top_ids(peaks, k)[:, :, None] * block + inside).flatten(1)
    rest = torch.arange(whole, values.shape[1], device=values.device)
    ids = torch.cat([ids, rest.expand(len(ids), -1)], dim=1)
    return ids.gather(1, _top_ids(values.gather(1, ids), k))


def _top_ids(values: Tensor, k: int) -> Tensor:
    """`top_ids` by a look at every value."""
    edge = values.topk(k, dim=1).values[:, -1]
    rows, ids = (values >= edge[:, None]).nonzero(as_tuple=True)
    equal = values[rows, ids] == edge[rows]
    above = torch.bincount(rows[~equal], minlength=len(values))
    equals = torch.bincount(rows[equal], minlength=len(values))
    rank = equal.cumsum(0) - (equals.cumsum(0) - equals)[rows]
    kept = ids[~equal | (rank <= k - above[rows])]
    if kept.numel() != len(values) * k:
        raise SamplingError("logits contain NaN", fix="check weights and dtype")
    return kept.view(-1, k)


def top_k_top_p(
    values: Tensor, top_p: float | None, top_k: int | None
) -> tuple[Tensor, Tensor | None]:
    """Top-p of the whole distribution, then top-k: logits [m, V] -> (logits [m, K], ids [m, K]).

    Ids ascend; None stands for all of 0..V-1. Dropped candidates among the K are -inf. Top-p keeps
    the likeliest tokens up to and including the one that brings their sum above p.
    """
    if top_p == 1:
        top_p = None
    size = values.shape[1]
    width = min(size, top_k or (size if top_p is None else PREFIX))
    while True:
        ids = None if width == size else top_ids(values, width)
        kept = values if ids is None else values.gather(1, ids)
        if top_p is None:
            return kept, ids
        nucleus, covered = _nucleus(kept, values.logsumexp(dim=1, keepdim=True), top_p)
        if ids is None or top_k is not None or bool((covered > top_p).all()):
            return nucleus, ids
        width = min(size, width * WIDEN)


def draw(values: Tensor, uniforms: Tensor) -> Tensor:
    """Candidates [m] drawn from softmax(values [m, K]) by inverting its distribution function.

    uniforms: float64 [m] in [0, 1). One number decides each position, on any device.
    """
    mass = values.softmax(dim=1).double().cumsum(dim=1)
    targets = uniforms.to(mass.device)[:, None] * mass[:, -1:]
    index = torch.searchsorted(mass, targets, right=True)
    return index[:, 0].clamp(max=values.shape[1] - 1)


def _nucleus(values: Tensor, total: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Values [m, K] with -inf outside the nucleus, and the mass [m] that all K cover."""
    sorted_values, order = values.sort(dim=1, descending=True, stable=True)
    mass = (sorted_values - total).exp().cumsum(dim=1)
    beyond = torch.zeros_like(mass, dtype=torch.bool)
    beyond[:, 1:] = mass[:, :-1] > top_p
    kept = sorted_values.masked_fill(beyond, DROPPED)
    return torch.empty_like(values).scatter_(1, order, kept), mass[:, -1]

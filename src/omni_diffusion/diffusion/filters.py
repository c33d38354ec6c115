"""Which candidates a place may take, and drawing one: top-k, top-p, sampling.

Knows nothing of confidence or steps. Letters: m places, V tokens, K kept candidates. Equal logits
always resolve to the lowest token id, on every device.
"""

import torch
from torch import Tensor

from omni_diffusion.errors import SamplingError

PREFIX, WIDEN = 1024, 8
"""The likeliest tokens that top-p looks at first, and how much wider it looks while the nucleus
does not fit, so that the whole vocabulary is hardly ever sorted."""

DROPPED = float("-inf")


def top_ids(values: Tensor, k: int) -> Tensor:
    """The ids of the k greatest of values [m, V] -> int64 [m, k], ascending.

    Unlike torch.topk's, the choice among equals at the edge is the lowest ids.
    """
    edge = values.topk(k, dim=1).values[:, -1]
    rows, ids = (values >= edge[:, None]).nonzero(as_tuple=True)
    equal = values[rows, ids] == edge[rows]
    above = torch.bincount(rows[~equal], minlength=len(values))
    equals = torch.bincount(rows[equal], minlength=len(values))
    rank = equal.cumsum(0) - (equals.cumsum(0) - equals)[rows]
    kept = ids[~equal | (rank <= k - above[rows])]
    if kept.numel() != len(values) * k:
        raise SamplingError("logits hold values that are not numbers; check weights and dtype")
    return kept.view(-1, k)


def keep(values: Tensor, top_p: float | None, top_k: int | None) -> tuple[Tensor, Tensor | None]:
    """Top-p of the whole distribution, then top-k: logits [m, V] -> (logits [m, K], ids [m, K]).

    Ids ascend; None stands for all of 0..V-1. Dropped candidates among the K are -inf. Top-p keeps
    the likeliest tokens up to the one that carries the sum past p.
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
    """Candidate [m] drawn from softmax(values [m, K]) by inverting its distribution function.

    uniforms: float64 [m] in [0, 1), so that one number per place decides, on any device.
    """
    mass = values.softmax(dim=1).double().cumsum(dim=1)
    targets = uniforms.to(mass.device)[:, None] * mass[:, -1:]
    place = torch.searchsorted(mass, targets, right=True)
    return place[:, 0].clamp(max=values.shape[1] - 1)


def _nucleus(values: Tensor, total: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Drop what lies beyond the nucleus; also the mass [m] that values [m, K] cover at all."""
    sorted_values, order = values.sort(dim=1, descending=True, stable=True)
    mass = (sorted_values - total).exp().cumsum(dim=1)
    beyond = torch.zeros_like(mass, dtype=torch.bool)
    beyond[:, 1:] = mass[:, :-1] > top_p
    kept = sorted_values.masked_fill(beyond, DROPPED)
    return torch.empty_like(values).scatter_(1, order, kept), mass[:, -1]

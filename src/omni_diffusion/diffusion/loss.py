"""Cross-entropy on masked places, and the bound on likelihood that it stands for.

Knows nothing of models: logits come in, a number goes out. Letters: B rows, L places, N masked
places in row-major order, V vocabulary, n maskable places.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from omni_diffusion.diffusion.masking import Corruption
from omni_diffusion.errors import ConfigError

Weighting = Literal["plain", "elbo", "per_length"]
Denoise = Callable[[Tensor], Tensor]
"""LongTensor [S, L] with mask ids -> logits [S, L, V], place i predicting token i."""


@dataclass(frozen=True)
class Weights:
    """What each masked place counts, and what the weighted sum is to be divided by.

    With gradient accumulation add up ``normaliser`` over the micro-batches (and machines) first
    and hand the total to :func:`masked_loss`, so that the step equals one large batch.
    """

    places: Tensor
    """Float32 [N]."""
    normaliser: Tensor
    """Float32 scalar: this batch's own share of the divisor."""


def weigh(
    corruption: Corruption,
    maskable: Tensor,
    weighting: Weighting = "plain",
    *,
    importance: Tensor | None = None,
) -> Weights:
    """Weights of a corrupted batch's masked places; a row is one sequence.

    plain: the mean over masked tokens. elbo: 1 / ratio over all maskable tokens, an estimate of the
    bound in nats per token where t is drawn uniformly. per_length: 1 / (ratio * length of its
    sequence), so that every sequence counts the same. ``importance`` [B, L] multiplies each place.
    """
    masked = corruption.masked
    if importance is None:
        importance = torch.ones(masked.shape, device=masked.device)
    if weighting == "plain":
        places = importance[masked]
        return Weights(places, places.sum())
    if weighting == "elbo":
        return Weights(importance[masked] / corruption.ratio[masked], (importance * maskable).sum())
    if weighting == "per_length":
        lengths = maskable.sum(dim=1, keepdim=True)
        places = importance[masked] / (corruption.ratio * lengths)[masked]
        return Weights(places, (lengths > 0).sum().float())
    raise ConfigError(f"unknown loss weighting {weighting!r}; use one of {get_args(Weighting)}")


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target in nats, float32 [N]: logits [N, V], targets [N]."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def masked_loss(
    logits: Tensor, targets: Tensor, weights: Weights, normaliser: Tensor | float | None = None
) -> Tensor:
    """Weighted cross-entropy in float32: logits [N, V], targets [N] -> scalar.

    ``normaliser`` replaces the batch's own divisor. No masked place at all gives 0.
    """
    losses = token_losses(logits, targets)
    divisor = weights.normaliser if normaliser is None else torch.as_tensor(normaliser)
    return (losses * weights.places).sum() / divisor.clamp(min=torch.finfo(torch.float32).tiny)


def exact_bound(denoise: Denoise, ids: Tensor, maskable: Tensor, mask_id: int) -> Tensor:
    """Upper bound on -log p(ids [L]) in nats by enumerating all 2^n maskings; for tiny n only.

    The integral over t of the paper's loss weighted by 1/t gives a set of k masked places the
    weight 1 / (k * C(n, k)).
    """
    places = maskable.nonzero().flatten().tolist()
    total = torch.zeros((), device=ids.device)
    for k in range(1, len(places) + 1):
        subsets = torch.tensor(list(combinations(places, k)), device=ids.device)
        masked = torch.zeros(len(subsets), len(ids), dtype=torch.bool, device=ids.device)
        masked.scatter_(1, subsets, True)
        total = total + _surprise(denoise, ids, masked, mask_id).sum() / (
            k * math.comb(len(places), k)
        )
    return total


def likelihood_bound(
    denoise: Denoise,
    ids: Tensor,
    maskable: Tensor,
    mask_id: int,
    *,
    samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Monte Carlo estimate [samples] of :func:`exact_bound`; its mean is unbiased.

    Draws the number k of masked places evenly from 1..n and k of the n places; weight n / k. Same
    mean as drawing t ~ U[0, 1], with less noise.
    """
    n = int(maskable.sum())
    device = ids.device
    k = torch.randint(1, n + 1, (samples, 1), generator=generator, device=device)
    draws = torch.rand(samples, len(ids), generator=generator, device=device)
    rank = draws.masked_fill(~maskable, 2.0).argsort(dim=1).argsort(dim=1)
    return _surprise(denoise, ids, rank < k, mask_id) * (n / k[:, 0])


def _surprise(denoise: Denoise, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """Sum of -log p(token) over each masking's masked places: ids [L], masked [S, L] -> [S]."""
    logits = denoise(torch.where(masked, mask_id, ids)).float()
    targets = ids.expand(masked.shape)
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (losses * masked).sum(dim=1)

"""Cross-entropy on masked positions, and the bound on the likelihood that it estimates.

Dimensions: B sequences, L positions, N masked positions in row-major order, V vocabulary,
n maskable positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from omni_diffusion.diffusion.masking import Corruption
from omni_diffusion.errors import ConfigError

Weighting = Literal["plain", "elbo", "per_length"]
# int64 [S, L] with mask ids -> logits [S, L, V]; those of position i predict token i
Denoise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    """The loss of a batch is (per_token * token_losses).sum() / normaliser.

    per_token: float32 [N]. normaliser: float32 scalar. With gradient accumulation, divide by the
    sum of `normaliser` over all micro-batches and processes, so that the step equals one large
    batch.
    """

    per_token: Tensor
    normaliser: Tensor


def weigh(
    corruption: Corruption,
    maskable: Tensor,
    weighting: Weighting = "plain",
    *,
    importance: Tensor | None = None,
) -> Weights:
    """Weights of the masked positions of a corrupted batch.

    plain: the mean over masked tokens. elbo: 1 / ratio over all maskable tokens, an estimate of the
    bound in nats per token if t is drawn uniformly. per_length: 1 / (ratio * length of its
    sequence), so that every sequence has the same weight. importance: float32 [B, L], a factor for
    each position. Raises ConfigError for another weighting.
    """
    masked = corruption.masked
    if importance is None:
        importance = torch.ones(masked.shape, device=masked.device)
    if weighting == "plain":
        per_token = importance[masked]
        return Weights(per_token, per_token.sum())
    if weighting == "elbo":
        return Weights(importance[masked] / corruption.ratio[masked], (importance * maskable).sum())
    if weighting == "per_length":
        lengths = maskable.sum(dim=1, keepdim=True)
        per_token = importance[masked] / (corruption.ratio * lengths)[masked]
        return Weights(per_token, (lengths > 0).sum().float())
    raise ConfigError(
        f"unknown loss weighting {weighting!r}",
        field="weighting",
        value=weighting,
        fix=f"give one of {', '.join(get_args(Weighting))}",
    )


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target in nats, float32 [N]: logits [N, V], targets [N]."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def likelihood_bound(
    denoise: Denoise,
    ids: Tensor,
    maskable: Tensor,
    mask_id: int,
    *,
    samples: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Monte Carlo estimates [samples] of an upper bound on -log p(ids [L]) in nats.

    See `bound_masks`; the mean of the estimates is unbiased.
    """
    masked, weights = bound_masks(maskable, samples, generator)
    logits = denoise(torch.where(masked, mask_id, ids)).float()
    losses = F.cross_entropy(logits.transpose(1, 2), ids.expand(masked.shape), reduction="none")
    return (losses * masked).sum(dim=1) * weights


def bound_masks(
    maskable: Tensor, samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Masks bool [samples, L] and weights float [samples] of the bound's Monte Carlo estimates.

    The sum of -log p over the masked tokens, times the weight, estimates the paper's loss weighted
    by 1/t and integrated over t, which bounds -log p of the sequence. Each draws the number k of
    masked positions uniformly from 1..n, then k of the n maskable positions [L], and has weight
    n / k. This has the mean of drawing t ~ U[0, 1], with less variance.
    """
    n, device = int(maskable.sum()), maskable.device
    k = torch.randint(1, n + 1, (samples, 1), generator=generator, device=device)
    draws = torch.rand(samples, len(maskable), generator=generator, device=device)
    rank = draws.masked_fill(~maskable, 2.0).argsort(dim=1).argsort(dim=1)
    return rank < k, n / k[:, 0]

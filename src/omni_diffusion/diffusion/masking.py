"""The forward process: which known tokens are hidden from the denoiser in training.

Knows nothing of what a token means: it gets ids, which places may be masked, which of those are
padding, and the mask id. Letters: B rows, L places.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from omni_diffusion.diffusion.schedule import share_masked
from omni_diffusion.errors import ConfigError

Variant = Literal["uniform", "cosine", "per_token", "antithetic"]


@dataclass(frozen=True)
class MaskingConfig:
    """How a mask ratio is drawn.

    variant: "uniform", one t ~ U[0, 1] for a sequence (the paper); "cosine", t = cos(pi u / 2),
    biased to high ratios; "antithetic", the batch's t spread evenly over [0, 1], each one uniform;
    "per_token", one t for each token, so half of every sequence (the published code).
    gamma: padding is masked at gamma times the ratio (attenuated tail-pad masking).
    epsilon: the ratio runs over [epsilon, 1].
    full: share of the sequences whose ratio is 1 whatever was drawn. It is where decoding starts,
    and nothing but the prompt is there to predict from; the paper has none.
    blocks: share of the sequences that are masked as decoding in blocks meets them: a block of
    ``block_length`` places somewhere in the answer is masked at the sequence's ratio, all before it
    is given, and all behind it is hidden but not asked for. The paper has none, and the loss is
    then no bound on the likelihood.
    """

    variant: Variant = "uniform"
    gamma: float = 0.6
    epsilon: float = 0.001
    full: float = 0.0
    blocks: float = 0.0
    block_length: int = 16

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ConfigError(
                f"unknown masking variant {self.variant!r}; use one of {get_args(Variant)}"
            )
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"masking gamma is {self.gamma}; give a share from 0 to 1")
        if not 0 <= self.full <= 1:
            raise ConfigError(f"masking full is {self.full}; give a share from 0 to 1")
        if not 0 <= self.blocks <= 1:
            raise ConfigError(f"masking blocks is {self.blocks}; give a share from 0 to 1")
        if self.block_length < 1:
            raise ConfigError(f"masking block_length is {self.block_length}; give 1 or more")
        if not 0 < self.epsilon < 1:
            raise ConfigError(f"masking epsilon is {self.epsilon}; give a value between 0 and 1")


@dataclass(frozen=True)
class Corruption:
    """A batch with part of its tokens hidden."""

    ids: Tensor
    """LongTensor [B, L]: the mask id where masked or behind a block, else the token."""
    masked: Tensor
    """BoolTensor [B, L]: the places to be predicted."""
    ratio: Tensor
    """Float32 [B, L]: the chance that this place had to be masked; 0 where it could not be."""


def corrupt(
    ids: Tensor,
    maskable: Tensor,
    pad: Tensor,
    mask_id: int,
    config: MaskingConfig,
    generator: torch.Generator | None = None,
    *,
    segments: Tensor | None = None,
    t: Tensor | None = None,
) -> Corruption:
    """Mask each maskable place of ids [B, L] with the chance of its sequence.

    A sequence is a row or, if ``segments`` [B, L] is given, a segment of a packed row. ``t`` [B]
    fixes the ratio of every row instead of drawing it. A sequence in which no real (not padding)
    place was masked gets one, chosen evenly; ``ratio`` counts that chance in.
    """
    group, groups = _groups(ids, segments)
    behind = torch.zeros_like(maskable)
    if config.blocks:
        maskable, behind = _blocks(maskable, pad, group, groups, config, generator)
    if t is None:
        chance = _draw(group, groups, config, generator)
    else:
        chance = t.to(ids.device, torch.float32)[:, None].expand(ids.shape)
    chance = torch.where(pad, chance * config.gamma, chance) * maskable
    masked = _rand(ids, generator) < chance

    real = maskable & ~pad
    spared = _per_group(torch.where(real, torch.log1p(-chance), 0), group, groups, "sum").exp()
    lowest = torch.where(real, _rand(ids, generator), 2.0)
    chosen = real & (lowest == _per_group(lowest, group, groups, "amin"))
    empty = _per_group((masked & real).float(), group, groups, "sum") == 0
    masked = masked | (chosen & empty)
    count = _per_group(real.float(), group, groups, "sum").clamp(min=1)
    ratio = torch.where(real, chance + spared / count, chance)
    return Corruption(torch.where(masked | behind, mask_id, ids), masked, ratio)


def _blocks(
    maskable: Tensor,
    pad: Tensor,
    group: Tensor,
    groups: int,
    config: MaskingConfig,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """What may be masked, and what is hidden behind it, once some sequences are cut to a block.

    A block starts at a maskable place that is no padding, each as likely as the other.
    """
    cut = (torch.rand(groups, generator=generator, device=group.device) < config.blocks)[group]
    places = torch.arange(maskable.shape[1], device=group.device).expand(maskable.shape)
    drawn = torch.where(maskable & ~pad, _rand(maskable, generator), 2.0)
    chosen = drawn == _per_group(drawn, group, groups, "amin")
    start = _per_group(torch.where(chosen, places, maskable.shape[1]), group, groups, "amin")
    stop = start + config.block_length
    inside = (places >= start) & (places < stop)
    return maskable & (inside | ~cut), maskable & cut & (places >= stop)


def _groups(ids: Tensor, segments: Tensor | None) -> tuple[Tensor, int]:
    """Number of the sequence that each place [B, L] belongs to, and how many there are."""
    rows = torch.arange(ids.shape[0], device=ids.device)[:, None].expand(ids.shape)
    if segments is None:
        return rows, ids.shape[0]
    names, group = torch.unique(rows * (segments.max() + 1) + segments, return_inverse=True)
    return group, len(names)


def _draw(
    group: Tensor, groups: int, config: MaskingConfig, generator: torch.Generator | None
) -> Tensor:
    """The ratio of every place [B, L]: epsilon + (1 - epsilon) t."""
    device = group.device
    if config.variant == "per_token":
        t = _rand(group, generator)
    elif config.variant == "antithetic":
        offset = torch.rand((), generator=generator, device=device)
        rungs = torch.randperm(groups, generator=generator, device=device) / groups
        t = ((offset + rungs) % 1)[group]
    else:
        u = torch.rand(groups, generator=generator, device=device)
        t = share_masked(u, "cosine" if config.variant == "cosine" else "linear")[group]
    if config.full:
        whole = torch.rand(groups, generator=generator, device=device) < config.full
        t = torch.where(whole[group], 1.0, t)
    return config.epsilon + (1 - config.epsilon) * t


def _rand(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)


def _per_group(values: Tensor, group: Tensor, groups: int, how: Literal["sum", "amin"]) -> Tensor:
    """Reduce values [B, L] over each sequence and hand the result back to its places [B, L]."""
    start = torch.zeros(groups, dtype=values.dtype, device=values.device)
    result = start.scatter_reduce(
        0, group.flatten(), values.flatten(), reduce=how, include_self=False
    )
    return result[group]

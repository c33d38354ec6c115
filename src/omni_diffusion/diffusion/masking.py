"""The forward process: which known tokens are masked in training.

Works on ids, on which positions may be masked, which of those are padding, and on the mask id.

Dimensions: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from omni_diffusion.diffusion.schedule import masked_fraction
from omni_diffusion.errors import ConfigError

Variant = Literal["uniform", "cosine", "per_token", "antithetic", "bell"]
BELL = 4  # uniform draws whose mean is a ratio of "bell"; its standard deviation is 0.144


@dataclass(frozen=True)
class MaskingConfig:
    """How a mask ratio is drawn.

    variant: "uniform", one t ~ U[0, 1] for a sequence (the paper); "cosine", t = cos(pi u / 2),
    biased to high ratios; "antithetic", the t of a batch stratified over [0, 1], each one uniform;
    "per_token", one t for each token, so half of every sequence (the published code); "bell", the
    mean of four uniform draws, so around a half, but wider than "per_token".
    gamma: padding is masked at gamma times the ratio (attenuated tail-pad masking).
    epsilon: the ratio runs over [epsilon, 1].
    full: fraction of sequences whose ratio is 1, where decoding starts. The paper has none.
    blocks: fraction of sequences masked as in block-wise decoding: a block of `block_length`
    positions somewhere in the answer is masked at the ratio of the sequence, everything before it
    is known, and everything after it is masked without a loss. The paper has none, and the loss is
    then not a bound on the likelihood.

    Raises ConfigError for a value outside its range.
    """

    variant: Variant = "uniform"
    gamma: float = 0.6
    epsilon: float = 0.001
    full: float = 0.0
    blocks: float = 0.0
    block_length: int = 16

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            self._refuse("variant", f"one of {', '.join(get_args(Variant))}")
        for name in ("gamma", "full", "blocks"):
            if not 0 <= getattr(self, name) <= 1:
                self._refuse(name, "a fraction from 0 to 1")
        if self.block_length < 1:
            self._refuse("block_length", "1 or more")
        if not 0 < self.epsilon < 1:
            self._refuse("epsilon", "a value between 0 and 1")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise ConfigError(
            f"masking {name} is {value!r}", field=name, value=value, fix=f"give {expected}"
        )


@dataclass(frozen=True)
class Corruption:
    """A batch with some of its tokens masked.

    ids: int64 [B, L], the mask id where masked or after a block, else the token.
    masked: bool [B, L], the positions to predict.
    ratio: float32 [B, L], the probability that this position was masked; 0 where it could not be.
    """

    ids: Tensor
    masked: Tensor
    ratio: Tensor


def corrupt(
    ids: Tensor,
    maskable: Tensor,
    pad: Tensor,
    mask_id: int,
    config: MaskingConfig,
    generator: torch.Generator | None = None,
    *,
    t: Tensor | None = None,
) -> Corruption:
    """Mask each maskable position of ids [B, L] with the probability of its sequence.

    maskable, pad: bool [B, L]. `t` [B] fixes the ratio of every sequence instead of drawing it with
    `ratios`. A sequence without a masked real (not padding) position gets one, chosen uniformly;
    `ratio` includes that probability.
    """
    behind = torch.zeros_like(maskable)
    if config.blocks:
        maskable, behind = _blocks(maskable, pad, config, generator)
    if t is None and config.variant == "per_token":
        chance = config.epsilon + (1 - config.epsilon) * _rand(ids, generator)
    else:
        drawn = ratios(config, len(ids), generator, ids.device) if t is None else t
        chance = drawn.to(ids.device, torch.float32)[:, None].expand(ids.shape)
    chance = torch.where(pad, chance * config.gamma, chance) * maskable
    masked = _rand(ids, generator) < chance

    real = maskable & ~pad
    spared = torch.where(real, torch.log1p(-chance), 0).sum(1, keepdim=True).exp()
    lowest = torch.where(real, _rand(ids, generator), 2.0)
    chosen = real & (lowest == lowest.amin(1, keepdim=True))
    empty = ~(masked & real).any(1, keepdim=True)
    masked = masked | (chosen & empty)
    count = real.sum(1, keepdim=True).clamp(min=1)
    ratio = torch.where(real, chance + spared / count, chance)
    return Corruption(torch.where(masked | behind, mask_id, ids), masked, ratio)


def ratios(
    config: MaskingConfig,
    count: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask ratios of `count` sequences, float32 [count]: epsilon + (1 - epsilon) t, or 1.

    "antithetic" stratifies over these `count`. "per_token" has no ratio of a sequence; here it is
    uniform.
    """
    if config.variant == "antithetic":
        offset = torch.rand((), generator=generator, device=device)
        rungs = torch.randperm(count, generator=generator, device=device) / count
        t = (offset + rungs) % 1
    elif config.variant == "bell":
        t = torch.rand(count, BELL, generator=generator, device=device).mean(dim=1)
    else:
        u = torch.rand(count, generator=generator, device=device)
        t = masked_fraction(u, "cosine" if config.variant == "cosine" else "linear")
    if config.full:
        whole = torch.rand(count, generator=generator, device=device) < config.full
        t = torch.where(whole, 1.0, t)
    return config.epsilon + (1 - config.epsilon) * t


def _blocks(
    maskable: Tensor, pad: Tensor, config: MaskingConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """What may be masked, and what is hidden after it, once some sequences are cut to a block.

    A block starts at a maskable position that is not padding; all of them are equally likely.
    """
    rows, length = maskable.shape
    cut = torch.rand(rows, 1, generator=generator, device=maskable.device) < config.blocks
    positions = torch.arange(length, device=maskable.device).expand(maskable.shape)
    drawn = torch.where(maskable & ~pad, _rand(maskable, generator), 2.0)
    chosen = drawn == drawn.amin(1, keepdim=True)
    start = torch.where(chosen, positions, length).amin(1, keepdim=True)
    stop = start + config.block_length
    inside = (positions >= start) & (positions < stop)
    return maskable & (inside | ~cut), maskable & cut & (positions >= stop)


def _rand(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)

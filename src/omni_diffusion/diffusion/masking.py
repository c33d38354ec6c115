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
    t: Tensor | None = None,
) -> Corruption:
    """Mask each maskable place of ids [B, L] with the chance of its row, which is one sequence.

    ``t`` [B] fixes the ratio of every row instead of drawing it: see :func:`ratios`. A row in which
    no real (not padding) place was masked gets one, chosen evenly; ``ratio`` counts that chance in.
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
    """Mask ratios of so many sequences, float32 [count]: epsilon + (1 - epsilon) t, some of them 1.

    Antithetic ones are even over just these. "per_token" has none for a sequence: drawn evenly.
    """
    if config.variant == "antithetic":
        offset = torch.rand((), generator=generator, device=device)
        rungs = torch.randperm(count, generator=generator, device=device) / count
        t = (offset + rungs) % 1
    else:
        u = torch.rand(count, generator=generator, device=device)
        t = share_masked(u, "cosine" if config.variant == "cosine" else "linear")
    if config.full:
        whole = torch.rand(count, generator=generator, device=device) < config.full
        t = torch.where(whole, 1.0, t)
    return config.epsilon + (1 - config.epsilon) * t


def _blocks(
    maskable: Tensor, pad: Tensor, config: MaskingConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """What may be masked, and what is hidden behind it, once some rows are cut to a block.

    A block starts at a maskable place that is no padding, each as likely as the other.
    """
    rows, length = maskable.shape
    cut = torch.rand(rows, 1, generator=generator, device=maskable.device) < config.blocks
    places = torch.arange(length, device=maskable.device).expand(maskable.shape)
    drawn = torch.where(maskable & ~pad, _rand(maskable, generator), 2.0)
    chosen = drawn == drawn.amin(1, keepdim=True)
    start = torch.where(chosen, places, length).amin(1, keepdim=True)
    stop = start + config.block_length
    inside = (places >= start) & (places < stop)
    return maskable & (inside | ~cut), maskable & cut & (places >= stop)


def _rand(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)

"""Augmentation of log-mel features: speed, vocal tract length, gain, noise and masks.

Works on features, which are computed once: speed stretches time, another vocal tract length
stretches frequency (VTLP, Jaitly and Hinton 2013), gain is a shift, noise is a floor; masks are
SpecAugment's (Park et al. 2019). Dimensions: F rows of 10 ms, D mel bands. Levels are in nepers of
power (1 neper = 4.34 dB); `unit` is the value of one neper in the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the changes.

    chance: probability that a clip is changed. speed, tract: largest relative change. gain: largest
    change in nepers. noise: range of the noise level in nepers below the maximum. bands, gaps:
    number of masks over D and F, of at most `band` and `gap`.
    """

    chance: float = 0.9
    speed: float = 0.1
    tract: float = 0.06
    gain: float = 1.5
    noise_chance: float = 0.5
    noise: tuple[float, float] = (5.0, 12.0)
    bands: int = 2
    band: int = 10
    gaps: int = 2
    gap: int = 8

    def warp(self, mel: Tensor, generator: torch.Generator, unit: float = 1.0) -> Tensor:
        """Change speed, vocal tract length and gain: [F, D] -> [F', D]. Words stay audible."""
        chance, speed, tract, gain = torch.rand(4, generator=generator).tolist()
        if chance >= self.chance:
            return mel
        frames, bands = mel.shape
        count = max(2, round(frames / (1 + self.speed * (2 * speed - 1))))
        mel = between(mel, torch.linspace(0, frames - 1, count))
        stretch = 1 + self.tract * (2 * tract - 1)
        mel = between(mel.T, (torch.arange(bands) * stretch).clamp(max=bands - 1)).T
        louder: Tensor = mel + self.gain * (2 * gain - 1) * unit
        return louder

    def spec_augment(self, mel: Tensor, generator: torch.Generator, unit: float = 1.0) -> Tensor:
        """Add noise and set masks to the mean: [F, D] -> [F, D]. May hide a word."""
        chance, noise, level = torch.rand(3, generator=generator).tolist()
        if chance >= self.chance:
            return mel
        if noise < self.noise_chance:
            low, high = self.noise
            floor = mel.max() / unit - (low + (high - low) * level)
            hiss = floor + 0.5 * torch.randn(mel.shape, generator=generator)
            mel = torch.logaddexp(mel / unit, hiss) * unit
        hidden = torch.zeros_like(mel, dtype=torch.bool)
        for _ in range(self.bands):
            hidden[:, _stretch(mel.shape[1], self.band, generator)] = True
        for _ in range(self.gaps):
            hidden[_stretch(mel.shape[0], self.gap, generator)] = True
        return torch.where(hidden, mel.mean(), mel)


def between(x: Tensor, at: Tensor) -> Tensor:
    """Rows of x [n, d] at fractional indices [m] by linear interpolation: [m, d]."""
    low = at.floor().long().clamp(0, len(x) - 2)
    share = (at - low)[:, None]
    return x[low] * (1 - share) + x[low + 1] * share


def _stretch(size: int, longest: int, generator: torch.Generator) -> slice:
    length = int(torch.randint(min(longest, size) + 1, (), generator=generator))
    start = int(torch.randint(size - length + 1, (), generator=generator))
    return slice(start, start + length)

"""Random changes of log-mel features, so that a small model hears more voices than were recorded.

Everything happens on the features, which are computed once: speed stretches time, a vocal tract of
another length stretches frequency, gain is a shift, noise is a floor (Jaitly and Hinton 2013;
SpecAugment, Park et al. 2019). Knows nothing of what the features are for. Dimension key: F rows of
10 ms, D mel bands. Levels are in nepers of power (1 neper = 4.34 dB); `unit` says how much one
neper is in the features at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distortion:
    """How much of each; `chance` is the share of clips that are changed at all."""

    chance: float = 0.9
    speed: float = 0.1
    tract: float = 0.06
    gain: float = 1.5
    noise_chance: float = 0.5
    noise: tuple[float, float] = (5.0, 12.0)  # below the loudest place
    bands: int = 2
    band: int = 10
    gaps: int = 2
    gap: int = 8

    def bend(self, mel: Tensor, generator: torch.Generator, unit: float = 1.0) -> Tensor:
        """Another speed, vocal tract and gain: [F, D] -> [F', D]. Keeps every word audible."""
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

    def spoil(self, mel: Tensor, generator: torch.Generator, unit: float = 1.0) -> Tensor:
        """Noise, and bands and gaps put to the mean: [F, D] -> [F, D]. May hide a word."""
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
    """Rows of x [n, d] at fractional places [m], by linear interpolation: [m, d]."""
    low = at.floor().long().clamp(0, len(x) - 2)
    share = (at - low)[:, None]
    return x[low] * (1 - share) + x[low + 1] * share


def _stretch(size: int, longest: int, generator: torch.Generator) -> slice:
    length = int(torch.randint(min(longest, size) + 1, (), generator=generator))
    start = int(torch.randint(size - length + 1, (), generator=generator))
    return slice(start, start + length)

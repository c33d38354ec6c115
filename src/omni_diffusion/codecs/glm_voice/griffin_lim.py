"""Log-mel -> waveform without learned weights: a least-squares inverse mel and Griffin-Lim.

The vocoder of the small model; it inverts `mel.voice_log_mel`.

Dimensions: C mel bins, M frames, K = 513 frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_diffusion.codecs.glm_voice.mel import (
    VOICE_FFT,
    VOICE_HOP,
    VOICE_PAD,
    VOICE_RATE,
    slaney_mel_filters,
    voice_stft,
)
from omni_diffusion.io import config as configs
from omni_diffusion.media import Waveform

PEAK = 0.99


@dataclass(frozen=True)
class GriffinLim:
    """Fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013); it is its own config."""

    iterations: int = 30
    momentum: float = 0.99
    mel_iterations: int = 50

    def __post_init__(self) -> None:
        configs.check_ranges(
            self, iterations=(1, 10_000), mel_iterations=(0, 10_000), momentum=(0, 0.9999)
        )

    @torch.no_grad()
    def decode(self, mel: Tensor, generator: torch.Generator | None = None) -> Waveform:
        """Waveform [1, 256 M] at 22,050 Hz of a log-mel [C, M].

        generator: draws the initial phases; seed 42 by default.
        """
        frames = mel.shape[-1]
        if frames == 0:
            return Waveform(torch.zeros(1, 0), VOICE_RATE)
        size = magnitudes(mel.float().cpu(), self.mel_iterations)
        generator = generator or torch.Generator().manual_seed(42)
        turns = torch.rand(size.shape, generator=generator)
        samples = synthesize(torch.polar(size, 2 * torch.pi * turns))
        if frames > 1:  # one frame is too short for an STFT
            samples = self._improve(samples, size)
        return Waveform(samples.clamp(-PEAK, PEAK)[None], VOICE_RATE)

    def decode_after(
        self, tail: Tensor | None, mel: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Waveform, Tensor]:
        """As `Vocoder`. tail: [1, 256], the end of the last waveform, cross-faded."""
        samples = self.decode(mel, generator).samples
        if tail is not None:
            fade = torch.hann_window(2 * VOICE_HOP)
            head = samples[:, :VOICE_HOP] * fade[:VOICE_HOP] + tail * fade[VOICE_HOP:]
            samples = torch.cat([head, samples[:, VOICE_HOP:]], dim=1)
        return Waveform(samples, VOICE_RATE), samples[:, -VOICE_HOP:]

    def _improve(self, samples: Tensor, size: Tensor) -> Tensor:
        """Alternate between consistent spectra and spectra of the target magnitudes [K, M]."""
        before = torch.zeros_like(size)
        envelope = overlapped_windows(size.shape[-1])
        for _ in range(self.iterations):
            spectrum = voice_stft(samples)
            ahead = spectrum + self.momentum * (spectrum - before)
            before = spectrum
            samples = synthesize(size * ahead / ahead.abs().clamp(min=1e-12), envelope)
        return samples


def magnitudes(mel: Tensor, iterations: int) -> Tensor:
    """Non-negative magnitudes [K, M] whose mel is nearest to a log-mel [C, M].

    Multiplicative updates (Lee and Seung 2000) from the clipped pseudo-inverse keep them positive.
    Frequencies above the highest mel band are silent.
    """
    filters = slaney_mel_filters(mel.shape[0], VOICE_FFT, VOICE_RATE, 8000.0)  # [K, C]
    target = mel.exp()
    size: Tensor = (torch.linalg.pinv(filters.T) @ target).clamp(min=1e-6)
    above = filters @ target
    for _ in range(iterations):
        size = size * above / (filters @ (filters.T @ size)).clamp(min=1e-10)
    return size


def synthesize(spectrum: Tensor, envelope: Tensor | None = None) -> Tensor:
    """Least-squares inverse of `voice_stft`: [K, M] -> [256 M] samples.

    envelope: `overlapped_windows` of M frames, for who inverts many spectra of one length.
    """
    if envelope is None:
        envelope = overlapped_windows(spectrum.shape[-1])
    window = torch.hann_window(VOICE_FFT)[:, None]
    pieces = torch.fft.irfft(spectrum, n=VOICE_FFT, dim=0) * window
    return (_overlap(pieces) / envelope)[VOICE_PAD:-VOICE_PAD]


def overlapped_windows(frames: int) -> Tensor:
    """The sum of squared windows that each sample of so many frames lies in, at least 1e-8."""
    window = torch.hann_window(VOICE_FFT)[:, None]
    return _overlap((window**2).expand(-1, frames)).clamp(min=1e-8)


def _overlap(pieces: Tensor) -> Tensor:
    """Add windows [1024, M] at every hop: [256 (M - 1) + 1024]."""
    length = (pieces.shape[-1] - 1) * VOICE_HOP + VOICE_FFT
    added = F.fold(pieces[None], (1, length), (1, VOICE_FFT), stride=(1, VOICE_HOP))
    return added.reshape(length)

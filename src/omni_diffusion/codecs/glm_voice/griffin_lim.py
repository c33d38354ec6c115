"""Log-mel -> waveform without learned weights: a least-squares inverse mel and Griffin-Lim.

The vocoder of the small model: plain in sound, exact in its definition, nothing to train. Knows
only `mel.log_mel`, which it inverts. Dimension key: C mel bins, M frames, K = 513 frequencies.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_diffusion.codecs.glm_voice.mel import (
    SPEAK_FFT,
    SPEAK_HOP,
    SPEAK_PAD,
    SPEAK_RATE,
    mel_filters,
    speak_stft,
)
from omni_diffusion.errors import ConfigError
from omni_diffusion.media import Waveform

PEAK = 0.99


@dataclass(frozen=True)
class GriffinLim:
    """Fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013); its own config."""

    iterations: int = 60
    momentum: float = 0.99
    mel_iterations: int = 100

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.mel_iterations < 0 or not 0 <= self.momentum < 1:
            raise ConfigError(
                f"Griffin-Lim with {self.iterations} iterations, {self.mel_iterations} mel "
                f"iterations and momentum {self.momentum}: expected at least 1, at least 0 and "
                "a momentum in [0, 1)"
            )

    @torch.no_grad()
    def decode(self, mel: Tensor, generator: torch.Generator | None = None) -> Waveform:
        """Sound [1, 256 M] at 22,050 Hz of a log-mel [C, M]; the same for the same generator.

        The generator (seed 42 by default) draws the phases to start from.
        """
        frames = mel.shape[-1]
        if frames == 0:
            return Waveform(torch.zeros(1, 0), SPEAK_RATE)
        size = magnitudes(mel.float().cpu(), self.mel_iterations)
        generator = generator or torch.Generator().manual_seed(42)
        turns = torch.rand(size.shape, generator=generator)
        samples = synthesize(torch.polar(size, 2 * torch.pi * turns))
        if frames > 1:  # one frame is too short to be analysed again
            samples = self._improve(samples, size)
        return Waveform(samples.clamp(-PEAK, PEAK)[None], SPEAK_RATE)

    def decode_after(
        self, tail: Tensor | None, mel: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Waveform, Tensor]:
        """As in `Vocoder`; the tail is the sound's, [1, 256], and fades into the new one."""
        samples = self.decode(mel, generator).samples
        if tail is not None:
            fade = torch.hann_window(2 * SPEAK_HOP)
            head = samples[:, :SPEAK_HOP] * fade[:SPEAK_HOP] + tail * fade[SPEAK_HOP:]
            samples = torch.cat([head, samples[:, SPEAK_HOP:]], dim=1)
        return Waveform(samples, SPEAK_RATE), samples[:, -SPEAK_HOP:]

    def _improve(self, samples: Tensor, size: Tensor) -> Tensor:
        """Alternate between consistent spectra and those of the wanted magnitudes [K, M]."""
        before = torch.zeros_like(size)
        for _ in range(self.iterations):
            spectrum = speak_stft(samples)
            ahead = spectrum + self.momentum * (spectrum - before)
            before = spectrum
            samples = synthesize(size * ahead / ahead.abs().clamp(min=1e-12))
        return samples


def magnitudes(mel: Tensor, iterations: int) -> Tensor:
    """Non-negative magnitudes [K, M] whose mel is nearest to a log-mel [C, M].

    Multiplicative updates (Lee and Seung 2000) from the clipped pseudo-inverse: they keep what
    is positive positive. Frequencies above the highest mel band stay silent.
    """
    filters = mel_filters(mel.shape[0], SPEAK_FFT, SPEAK_RATE, 8000.0)  # [K, C]
    wanted = mel.exp()
    size: Tensor = (torch.linalg.pinv(filters.T) @ wanted).clamp(min=1e-6)
    above = filters @ wanted
    for _ in range(iterations):
        size = size * above / (filters @ (filters.T @ size)).clamp(min=1e-10)
    return size


def synthesize(spectrum: Tensor) -> Tensor:
    """Least-squares inverse of `speak_stft`: [K, M] -> [256 M] samples."""
    frames = spectrum.shape[-1]
    window = torch.hann_window(SPEAK_FFT)[:, None]
    pieces = torch.fft.irfft(spectrum, n=SPEAK_FFT, dim=0) * window
    total = _overlap(pieces) / _overlap((window**2).expand(-1, frames)).clamp(min=1e-8)
    return total[SPEAK_PAD:-SPEAK_PAD]


def _overlap(pieces: Tensor) -> Tensor:
    """Add windows [1024, M] at every hop: [256 (M - 1) + 1024]."""
    length = (pieces.shape[-1] - 1) * SPEAK_HOP + SPEAK_FFT
    added = F.fold(pieces[None], (1, length), (1, SPEAK_FFT), stride=(1, SPEAK_HOP))
    return added.reshape(length)

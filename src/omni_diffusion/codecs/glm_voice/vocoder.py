"""Log-mel -> waveform: the protocol of vocoders, and the published one, HiFT.

HiFT predicts the pitch of each frame, makes a harmonic source at that pitch and filters it with a
convolutional network that ends in an inverse STFT (HiFTNet, Li et al. 2023, as CosyVoice and
GLM-4-Voice configure it).

Dimensions: B batch, C mel bins, M mel frames, n = 256 M samples, H sines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.loading import Source, fill
from omni_diffusion.codecs.glm_voice.mel import VOICE_HOP, VOICE_RATE
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform

SINES = 9  # the pitch and eight overtones
SINE_SIZE = 0.1
HISS = 0.003
VOICED_ABOVE = 10.0  # Hz
UP_RATES = (8, 8)
UP_KERNELS = (16, 16)
RES_KERNELS = (3, 7, 11)
SOURCE_KERNELS = (7, 11)
DILATIONS = (1, 3, 5)
FFT, HOP = 16, 4
BINS = FFT // 2 + 1
SLOPE = 0.1
PEAK = 0.99


class Vocoder(Protocol):
    """Log-mel frames to a waveform."""

    def decode(self, mel: Tensor, generator: torch.Generator | None = None) -> Waveform:
        """Waveform [1, 256 M] at 22,050 Hz of a log-mel [C, M]; `generator` draws its noise."""
        ...

    def decode_after(
        self, tail: Tensor | None, mel: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Waveform, Tensor]:
        """Waveform of a mel whose first frame is the last one of the previous call, and its tail.

        tail: that of the previous call, None at the beginning. The next call computes the last 256
        samples again.
        """
        ...


@dataclass(frozen=True)
class HiFTConfig:
    """Sizes of HiFT; its rates, kernels and source are constants."""

    mel_bins: int = 80
    base_channels: int = 512
    f0_channels: int = 512

    def __post_init__(self) -> None:
        configs.check_ranges(
            self,
            mel_bins=(1, 1024),
            base_channels=(2 ** len(UP_RATES), 2**16),
            f0_channels=configs.WIDTH,
        )

    @classmethod
    def official(cls) -> Self:
        """The official GLM-4-Voice vocoder (20 M parameters)."""
        return cls()

    @classmethod
    def mini(cls) -> Self:
        """A vocoder of 0.4 M parameters."""
        return cls(base_channels=64, f0_channels=64)


@dataclass(frozen=True)
class Randomness:
    """Random inputs of the source.

    phase: [B, H, 1], radians; the first sine always starts at 0. noise: [B, H, n], standard normal.
    """

    phase: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, rows: int, frames: int, generator: torch.Generator | None = None) -> Randomness:
        """Drawn in the published order, on the CPU; with seed 42 by default."""
        generator = generator or torch.Generator().manual_seed(42)
        phase = torch.rand(rows, SINES, 1, generator=generator) * (2 * math.pi) - math.pi
        samples = frames * math.prod(UP_RATES) * HOP
        return cls(phase, torch.randn(rows, SINES, samples, generator=generator))

    @classmethod
    def none(cls, rows: int, frames: int) -> Randomness:
        """Zeros."""
        samples = frames * math.prod(UP_RATES) * HOP
        return cls(torch.zeros(rows, SINES, 1), torch.zeros(rows, SINES, samples))


class HiFT(nn.Module):
    """The published vocoder; weight norm is folded into plain weights on loading."""

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        self.config = config
        base = config.base_channels
        widths = [base // 2 ** (i + 1) for i in range(len(UP_RATES))]
        self.f0_predictor = PitchPredictor(config.mel_bins, config.f0_channels)
        self.m_source = HarmonicSource()
        self.conv_pre = nn.Conv1d(config.mel_bins, base, 7, padding=3)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i, (rate, kernel, width) in enumerate(zip(UP_RATES, UP_KERNELS, widths, strict=True)):
            pad = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(2 * width, width, kernel, rate, pad))
            self.source_downs.append(_shrink(width, math.prod(UP_RATES[i + 1 :])))
            self.source_resblocks.append(ResidualBlock(width, SOURCE_KERNELS[i]))
            self.resblocks.extend(ResidualBlock(width, size) for size in RES_KERNELS)
        self.conv_post = nn.Conv1d(widths[-1], 2 * BINS, 7, padding=3)

    @classmethod
    def load(cls, source: Source, config: HiFTConfig | None = None) -> Self:
        """The module in eval mode, from a weight file, a folder holding one, or open tensors.

        Weight norm of the published file is folded.
        Raises WeightsError if names or shapes do not fit `config` (default: official).
        """
        sizes = config or HiFTConfig.official()
        return fill(weights.module_for(lambda: cls(sizes), source), source)

    def decode(self, mel: Tensor, generator: torch.Generator | None = None) -> Waveform:
        """Waveform [1, 256 M] at 22,050 Hz of a log-mel [C, M]; `generator` draws its noise."""
        if mel.shape[-1] == 0:
            return Waveform(torch.zeros(1, 0), VOICE_RATE)
        return self.decode_after(None, mel, generator)[0]

    @torch.no_grad()
    def decode_after(
        self, tail: Tensor | None, mel: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Waveform, Tensor]:
        """As `Vocoder`. tail: [1, 1, 256], the end of the last source."""
        wave, source = self(mel[None], Randomness.draw(1, mel.shape[-1], generator), tail)
        return Waveform(wave.float().cpu(), VOICE_RATE), source[..., -VOICE_HOP:]

    def forward(
        self, mel: Tensor, randomness: Randomness, tail: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples [B, n] of a log-mel [B, C, M], and their source [B, 1, n].

        tail: [B, 1, k], the end of the previous block's source, replaces the first k samples.
        """
        source = self.m_source(self.f0_predictor(mel), randomness)
        if tail is not None:
            source = torch.cat([tail, source[..., tail.shape[-1] :]], dim=-1)
        return self.filter(mel, source), source

    def filter(self, mel: Tensor, source: Tensor) -> Tensor:
        """Samples [B, n] of a log-mel [B, C, M] and its source [B, 1, n]."""
        window = torch.hann_window(FFT, device=mel.device)
        hum = torch.stft(source[:, 0], FFT, HOP, window=window, return_complex=True)
        spectrum = torch.cat([hum.real, hum.imag], dim=1)
        x = self.conv_pre(mel)
        kinds = len(RES_KERNELS)
        for i, (up, down, block) in enumerate(
            zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        ):
            x = up(F.leaky_relu(x, SLOPE))
            if i == len(UP_RATES) - 1:
                x = F.pad(x, (1, 0), mode="reflect")  # the STFT has one more frame
            x = x + block(down(spectrum))
            mixed = [block(x) for block in self.resblocks[kinds * i : kinds * (i + 1)]]
            x = torch.stack(mixed).mean(0)
        x = self.conv_post(F.leaky_relu(x))  # with torch's default slope, as published
        size = x[:, :BINS].exp().clamp(max=100.0)
        wave = torch.istft(torch.polar(size, x[:, BINS:].sin()), FFT, HOP, window=window)
        return wave.clamp(-PEAK, PEAK)


class PitchPredictor(nn.Module):
    """Fundamental frequency in Hz of each mel frame."""

    def __init__(self, mel_bins: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [nn.Conv1d(width if i else mel_bins, width, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, C, M] -> [B, M]."""
        hertz: Tensor = self.classifier(self.condnet(mel).transpose(1, 2))
        return hertz[..., 0].abs()


class HarmonicSource(nn.Module):
    """Sines at the pitch and its overtones in voiced frames, noise in others, mixed to one."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(SINES, 1)

    def forward(self, f0: Tensor, randomness: Randomness) -> Tensor:
        """Pitch [B, M] in Hz -> source [B, 1, n]."""
        f0 = f0[:, None].repeat_interleave(math.prod(UP_RATES) * HOP, dim=-1)
        multiples = torch.arange(1, SINES + 1, device=f0.device)[:, None]
        turns = (f0 * multiples / VOICE_RATE).cumsum(-1) % 1
        phase = randomness.phase.to(f0).clone()
        phase[:, 0] = 0.0
        voiced = (f0 > VOICED_ABOVE).to(f0)
        hiss = HISS * voiced + SINE_SIZE / 3 * (1 - voiced)
        sines = SINE_SIZE * (2 * math.pi * turns + phase).sin() * voiced
        sines = sines + hiss * randomness.noise.to(f0)
        source: Tensor = self.l_linear(sines.transpose(1, 2))
        return source.tanh().transpose(1, 2)


class ResidualBlock(nn.Module):
    """x + conv(snake(conv_d(snake(x)))) for each dilation d."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=d, padding=(kernel - 1) * d // 2)
            for d in DILATIONS
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2) for _ in DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(width) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(width) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, T] -> [B, width, T]."""
        rounds = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in rounds:
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, one alpha per channel (Ziyin et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, T] -> [B, width, T]."""
        alpha = self.alpha[:, None]
        # in place: at this size, a new tensor costs more than the operation that fills it
        return (alpha * x).sin_().square_().div_(alpha + 1e-9).add_(x)


def _shrink(width: int, rate: int) -> nn.Conv1d:
    """Downsample the source's spectrum to the frame rate of one stage."""
    if rate == 1:
        return nn.Conv1d(2 * BINS, width, 1)
    return nn.Conv1d(2 * BINS, width, 2 * rate, rate, rate // 2)

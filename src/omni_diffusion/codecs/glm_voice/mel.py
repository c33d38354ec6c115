"""Log-mel spectrograms: Whisper's for the tokenizer, and the one that the flow decoder makes.

Dimensions: B batch, n samples, F frames (10 ms hop, tokenizer), M frames (256-sample hop, decoder).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_diffusion.errors import MediaError
from omni_diffusion.media import SPEECH_RATE

WHISPER_FFT = 400
WHISPER_HOP = 160

VOICE_RATE = 22_050
VOICE_FFT = 1024
VOICE_HOP = 256
VOICE_PAD = (VOICE_FFT - VOICE_HOP) // 2


def whisper_log_mel(waves: Tensor, n_mels: int = 128) -> Tensor:
    """Whisper's log-mel of 16 kHz samples: [B, n] -> [B, n_mels, n // 160].

    log10 of the mel power, floored 8 below each row's own maximum, then (x + 4) / 4
    (Whisper's published front end). Every row needs more than 200 samples. Computed in float64,
    because in float32 the bins near the floor differ between machines.
    """
    waves = waves.double()
    window = torch.hann_window(WHISPER_FFT, dtype=waves.dtype, device=waves.device)
    spectrum = torch.stft(waves, WHISPER_FFT, WHISPER_HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    filters = slaney_mel_filters(n_mels, WHISPER_FFT, SPEECH_RATE).to(power)
    logs = (filters.T @ power).clamp(min=1e-10).log10()
    floor = logs.amax(dim=(-2, -1), keepdim=True) - 8.0
    return ((torch.maximum(logs, floor) + 4.0) / 4.0).float()


def voice_log_mel(samples: Tensor, n_mels: int = 80) -> Tensor:
    """The decoder's natural-log mel of 22,050 Hz samples: [..., n] -> [..., n_mels, n // 256].

    Magnitudes sqrt(power + 1e-9), Slaney mels up to 8 kHz, ln with a floor of 1e-5 (the
    definition used by HiFi-GAN, Matcha-TTS and CosyVoice).
    """
    filters = slaney_mel_filters(n_mels, VOICE_FFT, VOICE_RATE, 8000.0).to(samples.device)
    power = voice_stft(samples).abs() ** 2
    return (filters.T @ (power + 1e-9).sqrt()).clamp(min=1e-5).log()


def voice_stft(samples: Tensor) -> Tensor:
    """Complex spectrum [..., 513, n // 256]; frame k is centered on sample 256 k + 128."""
    if samples.shape[-1] <= VOICE_PAD:
        raise MediaError(
            f"a clip of {samples.shape[-1]} samples is too short for a mel spectrogram",
            field="samples",
            value=samples.shape[-1],
            fix=f"give more than {VOICE_PAD} samples at {VOICE_RATE} Hz",
        )
    rows = samples.reshape(-1, samples.shape[-1])
    padded = F.pad(rows[:, None], (VOICE_PAD, VOICE_PAD), mode="reflect")[:, 0]
    window = torch.hann_window(VOICE_FFT, device=samples.device)
    spectrum = torch.stft(
        padded, VOICE_FFT, VOICE_HOP, window=window, center=False, return_complex=True
    )
    return spectrum.reshape(*samples.shape[:-1], *spectrum.shape[-2:])


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # the cached table is also used in training
def slaney_mel_filters(n_mels: int, n_fft: int, rate: int, high: float | None = None) -> Tensor:
    """Triangular Slaney mel filters of equal area, [n_fft // 2 + 1, n_mels] float32 on the CPU.

    They span 0 Hz to `high` (default: half the rate). Formula: Slaney's Auditory Toolbox.
    """
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    top = _hertz_to_mel(torch.tensor(high or rate / 2, dtype=torch.float64, device="cpu"))
    steps = torch.linspace(0, 1, n_mels + 2, dtype=torch.float64, device="cpu")
    edges = _mel_to_hertz(steps * top)
    slopes = edges[None, :] - bins[:, None]
    widths = edges.diff()
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return (triangles * 2.0 / (edges[2:] - edges[:-2])).float()


# Slaney's scale: 3 mels per 200 Hz up to 1 kHz, then 27 steps to each factor of 6.4.
_KNEE_HERTZ, _KNEE_MEL = 1000.0, 15.0
_LOG_STEP = math.log(6.4) / 27.0


def _hertz_to_mel(hertz: Tensor) -> Tensor:
    logarithmic = _KNEE_MEL + (hertz / _KNEE_HERTZ).clamp(min=1.0).log() / _LOG_STEP
    return torch.where(hertz < _KNEE_HERTZ, hertz * 3.0 / 200.0, logarithmic)


def _mel_to_hertz(mel: Tensor) -> Tensor:
    exponential = _KNEE_HERTZ * ((mel - _KNEE_MEL) * _LOG_STEP).exp()
    return torch.where(mel < _KNEE_MEL, mel * 200.0 / 3.0, exponential)

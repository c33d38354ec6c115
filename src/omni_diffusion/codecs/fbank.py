"""Kaldi log-mel features in plain torch: framing, filter bank, low frame rate stacking, CMVN.

All samples are at 16 kHz.

Dimensions: S samples, N frames of 10 ms, D mel bands, T stacked rows of 60 ms, W = width of a
stacked row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from omni_diffusion.errors import MediaError, WeightsError
from omni_diffusion.io import files
from omni_diffusion.media import SPEECH_RATE

WINDOW, HOP = 400, 160  # 25 ms and 10 ms
LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
FULL_SCALE = 32_768.0  # Kaldi's features are defined on 16-bit sample values
FLOOR = torch.finfo(torch.float32).eps
LEAST_STD = 1e-3  # so that a constant feature is not divided by 0


def frame_count(samples: int) -> int:
    """Frames of `samples` samples: whole windows only, but at least one."""
    return 1 + max(0, samples - WINDOW) // HOP


def stacked_count(frames: int, stride: int) -> int:
    """Rows that `stack_frames` makes of `frames` frames."""
    return -(-frames // stride)


@lru_cache
def htk_mel_filters(n_mels: int, fft_size: int) -> Tensor:
    """HTK mel filters: triangles in mel(f) = 1127 ln(1 + f / 700) from 20 Hz to 8 kHz, peak 1.

    Returns [fft_size / 2, n_mels]; the bin at the Nyquist frequency has weight 0 and is omitted.
    """

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    def line(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    low, high = mel(line(LOWEST_HZ, SPEECH_RATE / 2)).tolist()
    edges = low + (high - low) / (n_mels + 1) * line(*range(n_mels + 2))
    bins = mel(line(*range(fft_size // 2)) * (SPEECH_RATE / fft_size))[:, None]
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()


def fbank(
    samples: Tensor,
    n_mels: int = 80,
    dither: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Log mel energies of samples in [-1, 1] at 16 kHz: [..., S] -> [..., N, n_mels] (Kaldi).

    A waveform shorter than one window becomes one frame, with the window cut to its length.
    dither: standard deviation of the noise added to each frame, in 16-bit sample steps.
    Raises MediaError for fewer than two samples.
    """
    size = min(WINDOW, samples.shape[-1])
    if size < 2:
        raise MediaError(
            f"a waveform of {size} samples at {SPEECH_RATE} Hz",
            field="samples",
            value=size,
            fix="give at least 2 samples",
        )
    frames = samples.float().unfold(-1, size, HOP) * FULL_SCALE
    if dither:
        noise = torch.randn(frames.shape, generator=generator, device=frames.device)
        frames = frames + dither * noise
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    window = torch.hamming_window(size, periodic=False, device=frames.device)
    fft_size = 1 << (size - 1).bit_length()
    spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, n=fft_size)[..., :-1]
    power = spectrum.real.square() + spectrum.imag.square()
    energies: Tensor = power @ htk_mel_filters(n_mels, fft_size).to(power.device)
    return energies.clamp(min=FLOOR).log()


def stack_frames(frames: Tensor, size: int, stride: int) -> Tensor:
    """Low frame rate: row i joins `size` frames around frame i * stride; end frames are repeated.

    [..., N, D] -> [..., ceil(N / stride), size * D].
    """
    N = frames.shape[-2]
    first = torch.arange(0, N, stride, device=frames.device) - (size - 1) // 2
    index = first[:, None] + torch.arange(size, device=frames.device)
    stacked: Tensor = frames[..., index.clamp(0, N - 1), :].flatten(-2)
    return stacked


def normalize(rows: Tensor, cmvn: Tensor) -> Tensor:
    """Apply CMVN [2, W], row 0 the shift and row 1 the scale, to rows [..., W]."""
    cmvn = cmvn.to(rows.device)
    return (rows + cmvn[0]) * cmvn[1]


def measure_cmvn(rows: Iterable[Tensor]) -> Tensor:
    """CMVN [2, W] that gives the concatenated rows [T, W] zero mean and unit variance."""
    every = torch.cat(list(rows)).double()
    deviation = every.std(0, correction=0).clamp(min=LEAST_STD)
    return torch.stack([-every.mean(0), 1 / deviation]).float()


def read_cmvn(path: Path) -> Tensor:
    """CMVN [2, W] from a Kaldi nnet1 text file (`am.mvn`); raises WeightsError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error})", value=str(path), fix="give SenseVoice's am.mvn"
        ) from error
    shift, scale = (_group(text, tag, path) for tag in ("AddShift", "Rescale"))
    if len(shift) != len(scale):
        raise WeightsError(
            f"{path} has {len(shift)} shifts but {len(scale)} scales",
            value=str(path),
            fix="replace the damaged file",
        )
    return torch.tensor([shift, scale])


def write_cmvn(cmvn: Tensor, path: Path) -> None:
    """Write CMVN [2, W] for `read_cmvn`; float32 values are preserved exactly."""
    W = cmvn.shape[-1]
    lines = ["<Nnet>", f"<Splice> {W} {W}", "[ 0 ]"]
    for tag, values in zip(("AddShift", "Rescale"), cmvn.tolist(), strict=True):
        numbers = " ".join(f"{value:.9g}" for value in values)
        lines += [f"<{tag}> {W} {W}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    files.write_text(path, "\n".join([*lines, "</Nnet>", ""]))


def _group(text: str, tag: str, path: Path) -> list[float]:
    # By tag and not by position: the first bracket group of the file is the splice.
    match = re.search(rf"<{tag}>\s+(\d+)\s+\d+\s+<LearnRateCoef>\s+\S+\s+\[([^\[\]]*)\]", text)
    if match is None:
        raise WeightsError(
            f"{path} has no <{tag}> group",
            value=str(path),
            fix="give SenseVoice's am.mvn (Kaldi nnet1 text)",
        )
    try:
        values = [float(word) for word in match[2].split()]
    except ValueError as error:
        raise WeightsError(
            f"{path}: <{tag}> has a word that is not a number ({error})",
            value=str(path),
            fix="replace the damaged file",
        ) from error
    if len(values) != int(match[1]) or not all(math.isfinite(value) for value in values):
        raise WeightsError(
            f"{path}: <{tag}> has {len(values)} values, expected {match[1]} finite ones",
            value=str(path),
            fix="replace the damaged file",
        )
    return values

"""Waveform -> speech codes: a Whisper encoder with causal convolutions and a codebook.

Source: GLM-4-Voice's published tokenizer.

Dimensions: B batch, F mel frames (100 a second), T = F / 2 encoder frames, N = T / pool codes
(12.5 a second in the official size), D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.base import finite
from omni_diffusion.codecs.glm_voice.loading import Source, fill
from omni_diffusion.codecs.glm_voice.masks import block_causal
from omni_diffusion.codecs.glm_voice.mel import WHISPER_HOP, whisper_log_mel
from omni_diffusion.errors import ConfigError, MediaError
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.media import SPEECH_RATE, Resampling, Waveform

WINDOW_SAMPLES = 30 * SPEECH_RATE  # longer clips are cut into independent windows
PREFIXES = ("model.encoder.", "encoder.")  # of names in checkpoints of a complete Whisper
LAYER = re.compile(r"layers\.(\d+)\.")
LEFTOVERS = ("ema_count", "ema_weight")  # running sums for training the codebook


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Sizes of the tokenizer.

    block_size: in encoder frames (50 a second). resampling: from other rates to 16 kHz; codes
    depend on it, so it is the method of the codec's training: "sinc" official, "soxr" small.
    """

    d_model: int = 1280
    heads: int = 20
    ffn: int = 5120
    layers: int = 16
    n_mels: int = 128
    max_positions: int = 1500
    codebook_size: int = 16384
    block_size: int = 200
    pool: int = 4
    resampling: Resampling = "soxr"

    def __post_init__(self) -> None:
        widths = ("d_model", "heads", "ffn", "n_mels", "max_positions", "codebook_size")
        configs.check_ranges(
            self,
            **dict.fromkeys((*widths, "block_size"), configs.WIDTH),
            layers=configs.DEPTH,
            pool=(1, min(1024, max(1, self.max_positions))),
        )
        if self.d_model % self.heads or self.d_model % 2:
            raise ConfigError(
                f"d_model is {self.d_model} with {self.heads} heads",
                field="d_model",
                value=self.d_model,
                fix="give an even multiple of heads",
            )

    @classmethod
    def official(cls) -> Self:
        """The official GLM-4-Voice tokenizer (344 M parameters)."""
        return cls(resampling="sinc")

    @classmethod
    def mini(cls) -> Self:
        """A tokenizer that trains on one CPU core: 1024 codes at 25 a second.

        At the official 12.5 a second, 1024 codes are too few for intelligible speech.
        """
        return cls(d_model=160, heads=5, ffn=640, layers=4, n_mels=80, codebook_size=1024, pool=2)

    @property
    def samples_per_code(self) -> int:
        """Samples at 16 kHz of one code: 2 (stride) x pool x hop, 1280 in the official size."""
        return 2 * self.pool * WHISPER_HOP

    @property
    def code_rate(self) -> float:
        """Codes per second."""
        return SPEECH_RATE / self.samples_per_code


class SpeechTokenizer(nn.Module):
    """Encoder, pooling and nearest codebook row; parameters have the published names."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        c = self.config = config
        self.conv1 = nn.Conv1d(c.n_mels, c.d_model, 3)
        self.conv2 = nn.Conv1d(c.d_model, c.d_model, 3, stride=2)
        self.embed_positions = _sinusoids(c.max_positions, c.d_model)
        self.embed_positions2 = _sinusoids(c.max_positions // c.pool, c.d_model)
        self.layers = nn.ModuleList(EncoderLayer(c) for _ in range(c.layers))
        self.codebook = nn.Embedding(c.codebook_size, c.d_model)

    @classmethod
    def load(cls, source: Source, config: SpeechTokenizerConfig | None = None) -> Self:
        """The module in eval mode, from a weight file, a folder holding one, or open tensors.

        Raises WeightsError if names or shapes do not fit `config` (default: official).
        """
        sizes = config or SpeechTokenizerConfig.official()
        module = weights.module_for(lambda: cls(sizes), source)
        return fill(module, source, module.rename)

    def rename(self, name: str) -> str | None:
        """Name of a tensor of a published checkpoint here; None = skip.

        A complete Whisper (names with a prefix) has layers after the quantized one and a last norm,
        which are skipped.
        """
        prefix = next((known for known in PREFIXES if name.startswith(known)), "")
        local = name.removeprefix(prefix)
        layer = LAYER.match(local)
        beyond = local.startswith("layer_norm.") or (
            layer is not None and int(layer[1]) >= self.config.layers
        )
        return None if local in LEFTOVERS or (prefix and beyond) else local

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> Tensor:
        """Codes [n] of one clip, `code_rate` a second; channel 0 only, none for an empty clip."""
        return self.encode_batch([waveform])[0]

    @torch.no_grad()
    def encode_batch(self, waveforms: Sequence[Waveform], batch_size: int = 16) -> list[Tensor]:
        """Codes of each clip, equal to those of `encode`; windows of all clips share batches."""
        windows: list[tuple[int, Tensor]] = []
        for clip, waveform in enumerate(waveforms):
            if waveform.samples.shape[1]:
                audio = waveform.first_channel().resample(SPEECH_RATE, self.config.resampling)
                cuts = torch.split(audio.samples[0], WINDOW_SAMPLES)
                windows += [(clip, cut) for cut in cuts]
        codes: list[list[Tensor]] = [[torch.empty(0, dtype=torch.long)] for _ in waveforms]
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            features, mask = self.features([window for _, window in batch])
            ids = self(features, mask).cpu()
            valid = self.valid(mask).cpu()
            for (clip, _), row, real in zip(batch, ids, valid, strict=True):
                codes[clip].append(row[real])
        return [torch.cat(parts) for parts in codes]

    def features(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-mel [B, n_mels, F] and its mask [B, F] (True = audio) of 16 kHz clips [n].

        Clips are padded with silence to the longest, rounded up to whole codes. Computed on the
        CPU, so that codes do not depend on the device, and returned on the module's device.
        """
        longest = max((len(wave) for wave in waves), default=0)
        if longest == 0:
            raise MediaError("no samples", field="waves", fix="give at least one clip of audio")
        step = self.config.samples_per_code
        total = -(-longest // step) * step
        padded = torch.stack([F.pad(wave.cpu(), (0, total - len(wave))) for wave in waves])
        lengths = torch.tensor([len(wave) for wave in waves])
        mask = torch.arange(0, total, WHISPER_HOP) < lengths[:, None]
        weight = self.conv1.weight
        return whisper_log_mel(padded, self.config.n_mels).to(weight), mask.to(weight.device)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Codes [B, N] including padding; `valid` tells which are of audio.

        Raises ModelError for states that are not finite.
        """
        return self.quantize(finite(self.pool(features, mask), "speech tokenizer"))

    def valid(self, mask: Tensor) -> Tensor:
        """Which codes [B, N] are of audio, from the mel mask [B, F]."""
        return mask[:, :: 2 * self.config.pool]

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        """Log-mel [B, n_mels, F] and its mask [B, F] -> inputs of the codebook [B, N, D]."""
        h = F.gelu(self.conv1(F.pad(features, (2, 0))))
        h = F.gelu(self.conv2(F.pad(h, (2, 0)))).transpose(1, 2)
        frames = h.shape[1]
        if frames > self.config.max_positions:
            raise MediaError(
                f"{frames} frames in one window, expected at most {self.config.max_positions}",
                field="features",
                value=frames,
                fix=f"cut the audio into windows of {WINDOW_SAMPLES} samples",
            )
        h = h + self.embed_positions.weight[:frames]
        index = torch.arange(frames, device=h.device)
        allowed = block_causal(index, self.config.block_size) & mask[:, None, None, ::2].bool()
        for layer in self.layers:
            h = layer(h, allowed)
        width = self.config.pool
        h = F.pad(h.transpose(1, 2), (0, -frames % width))
        return F.avg_pool1d(h, width).transpose(1, 2)

    def quantize(self, pooled: Tensor) -> Tensor:
        """Index [B, N] of the nearest codebook row (squared distance) to each of [B, N, D]."""
        book = self.codebook.weight
        distance = book.pow(2).sum(1) + pooled.pow(2).sum(-1, keepdim=True) - 2 * pooled @ book.T
        return distance.argmin(dim=-1)


class EncoderLayer(nn.Module):
    """Whisper's pre-norm layer: attention, then a GELU feed-forward."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = Attention(width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; allowed: [B, 1, T, T], which keys a query attends to."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), allowed)
        hidden: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + hidden


class Attention(nn.Module):
    """Multi-head self-attention; the key projection has no bias (Whisper)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return out


def _sinusoids(length: int, width: int) -> nn.Embedding:
    """Whisper's fixed position embeddings [length, width]: sines, then cosines."""
    scale = torch.log(torch.tensor(10_000.0)) / (width // 2 - 1)
    rates = torch.exp(-scale * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates
    table = nn.Embedding(length, width)
    table.weight = nn.Parameter(torch.cat([angles.sin(), angles.cos()], 1), requires_grad=False)
    return table

"""SenseVoiceSmall: a waveform becomes continuous frames, one per 60 ms, after four query frames.

Knows nothing of the language model that reads the frames, nor of text. Module names are those of
the published checkpoint. Dimension key: B rows, T frames, D width, H heads, W = n_mels * lfr_m.

CMVN is a fact about the data, not a weight: it is a plain float32 attribute, so that it stays out
of the state dict (as published) and a cast of the module to bfloat16 leaves it alone. It lives in
a file of its own beside the weights, the published ``am.mvn``; `fbank.write_cmvn` makes one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_diffusion.codecs import fbank
from omni_diffusion.errors import ConfigError, MediaError, ModelError
from omni_diffusion.media import Waveform

OMNI_PREFIX = "model.audio_model.model."


@dataclass(frozen=True)
class SenseVoiceConfig:
    """Sizes of the front end and of the encoder; the defaults are those of SenseVoiceSmall.

    ``query_ids`` are rows of the query table put before the sound: language (0 auto, 3 zh, 4 en,
    7 yue, 11 ja, 12 ko, 13 none), event, emotion, and 14 with or 15 without text normalisation.
    ``posenc_dtype`` "model" computes the sinusoids in the weights' dtype, as the published
    Omni-Diffusion does (coarse in bfloat16, but its language model learned on that).
    ``dither`` is 0 so that features repeat; the published front end adds noise of 1.0.
    """

    n_mels: int = 80
    lfr_m: int = 7
    lfr_n: int = 6
    dither: float = 0.0
    dim: int = 512
    heads: int = 4
    ffn: int = 2048
    blocks: int = 50
    tp_blocks: int = 20
    kernel: int = 11
    query_count: int = 16
    query_ids: tuple[int, ...] = (0, 1, 2, 15)
    posenc_dtype: Literal["float32", "model"] = "float32"
    ctc_size: int = 0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.blocks < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"blocks {self.blocks} must be at least 1 and kernel {self.kernel} odd"
            )
        if not all(0 <= query < self.query_count for query in self.query_ids):
            raise ConfigError(
                f"query_ids {self.query_ids} must lie in 0..{self.query_count - 1} (query_count)"
            )

    @classmethod
    def official(cls) -> "SenseVoiceConfig":
        """The encoder inside the Omni-Diffusion checkpoint."""
        return cls(posenc_dtype="model")

    @classmethod
    def mini(cls, ctc_size: int = 0) -> "SenseVoiceConfig":
        """About 1.3 million weights: learns a small spoken world with CTC on one CPU core."""
        return cls(dim=144, ffn=288, blocks=5, tp_blocks=1, ctc_size=ctc_size)

    @property
    def feature_width(self) -> int:
        """Width of one row of features."""
        return self.n_mels * self.lfr_m

    @property
    def queries(self) -> int:
        """Query frames before the frames of the sound."""
        return len(self.query_ids)


class SenseVoice(nn.Module):
    """The encoder with its front end; ``cmvn`` [2, W] is needed for features, not for forward."""

    def __init__(self, config: SenseVoiceConfig, cmvn: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.cmvn = cmvn
        self.embed = nn.Embedding(config.query_count, config.feature_width)
        self.encoder = Encoder(config)
        self.ctc = CTCHead(config) if config.ctc_size else None

    @property
    def dim(self) -> int:
        """Width of the frames."""
        return self.config.dim

    def frames(self, samples: int) -> int:
        """Frames that `encode` makes of ``samples`` samples at 16 kHz, queries included."""
        config = self.config
        return config.queries + fbank.stacked_count(fbank.frame_count(samples), config.lfr_n)

    def features(self, waveform: Waveform, generator: torch.Generator | None = None) -> Tensor:
        """Normalised features [T, W] in float32 of a waveform of any rate and channel count.

        ``generator`` feeds the dither, when the config has any.
        Raises MediaError for an empty or non-finite waveform, ModelError without ``cmvn``.
        """
        config = self.config
        if self.cmvn is None:
            raise ModelError("SenseVoice has no CMVN: set cmvn=fbank.read_cmvn(<folder>/am.mvn)")
        if self.cmvn.shape != (2, config.feature_width):
            raise ModelError(
                f"CMVN of shape {list(self.cmvn.shape)}: expected [2, {config.feature_width}]"
            )
        return fbank.normalize(stacked_features(waveform, config, generator), self.cmvn)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames [B, Q + T, D] and their counts [B] of padded features [B, T, W].

        ``lengths`` [B] counts the rows that are not padding (None: all are real). Frames past a
        row's count are meaningless, and never touch the others. Raises ModelError for bad shapes.
        """
        B, T, W = features.shape
        if self.config.feature_width != W:
            raise ModelError(f"features are {W} wide: expected {self.config.feature_width}")
        weight = self.embed.weight
        queries = weight[list(self.config.query_ids)].expand(B, -1, -1)
        x = torch.cat([queries, features.to(weight)], 1)
        if lengths is None:
            counts = torch.full((B,), x.shape[1], device=weight.device)
            return self.encoder(x, None), counts
        counts = _checked(lengths, B, T).to(weight.device) + self.config.queries
        valid = torch.arange(x.shape[1], device=weight.device) < counts[:, None]
        return self.encoder(x, valid), counts

    def encode(self, waveform: Waveform) -> Tensor:
        """Frames [Q + T, D] of one waveform, without gradient and without dropout."""
        # no_grad and not inference_mode: the frames may feed an adapter that is being trained.
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                frames: Tensor = self(self.features(waveform)[None])[0][0]
                return frames
        finally:
            self.train(training)

    def ctc_logits(self, frames: Tensor) -> Tensor:
        """Logits [..., ctc_size] over the head's symbols, symbol 0 being the blank."""
        if self.ctc is None:
            raise ModelError("this SenseVoice has no CTC head: set ctc_size above 0 in its config")
        logits: Tensor = self.ctc.ctc_lo(frames)
        return logits

    def rename(self, name: str) -> str | None:
        """Name here of a tensor of an Omni-Diffusion or SenseVoiceSmall checkpoint; None = skip.

        Skipped are the other parts of an Omni-Diffusion checkpoint, and a CTC head that is not
        wanted here (Omni-Diffusion carries it without using it).
        """
        local = name.removeprefix(OMNI_PREFIX)
        foreign = local.startswith(("model.", "lm_head."))
        return None if foreign or (self.ctc is None and local.startswith("ctc.")) else local


def stacked_features(
    waveform: Waveform, config: SenseVoiceConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Features [T, W] before CMVN: what `fbank.measure_cmvn` is to be given."""
    if not waveform.samples.numel():
        raise MediaError("an empty waveform holds no sound: give at least 2 samples at 16 kHz")
    samples = waveform.mono().resample(fbank.RATE).samples[0]
    if not samples.isfinite().all():
        raise MediaError("the waveform holds NaN or infinite samples: give values in [-1, 1]")
    rows = fbank.fbank(samples, config.n_mels, config.dither, generator)
    return fbank.stack_frames(rows, config.lfr_m, config.lfr_n)


def sinusoids(length: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Position rows [length, width] for positions 1..length, every operation done in ``dtype``.

    First half sin(p r_i), second half cos(p r_i), r_i = exp(-i ln(10000) / (width / 2 - 1)).
    """
    half = width // 2
    step = torch.tensor(10_000.0, dtype=dtype, device=device).log() / (half - 1)
    rates = torch.exp(torch.arange(half, device=device).to(dtype) * -step)
    phases = torch.arange(1, length + 1, device=device).to(dtype)[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], -1)


class Encoder(nn.Module):
    """Positions, the widening layer and the main ones, a norm, then the last run of layers."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.dim)
        self.posenc_dtype = config.posenc_dtype
        self.encoders0 = nn.ModuleList([Layer(config.feature_width, config)])
        self.encoders = nn.ModuleList(Layer(config.dim, config) for _ in range(config.blocks - 1))
        self.after_norm = LayerNorm(config.dim)
        self.tp_encoders = nn.ModuleList(Layer(config.dim, config) for _ in range(config.tp_blocks))
        self.tp_norm = LayerNorm(config.dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, W] and the places that are real [B, T] (None: all) -> [B, T, D]."""
        x = self.placed(x)
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, valid)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, valid)
        out: Tensor = self.tp_norm(x)
        return out

    def placed(self, x: Tensor) -> Tensor:
        """Scale [B, T, W] by sqrt(D) and add the positions."""
        dtype = x.dtype if self.posenc_dtype == "model" else torch.float32
        return x * self.scale + sinusoids(x.shape[1], x.shape[2], dtype, x.device).to(x.dtype)


class Layer(nn.Module):
    """Pre-norm attention with memory, then a feed-forward part."""

    def __init__(self, width: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.self_attn = MemoryAttention(width, config)
        self.feed_forward = FeedForward(config)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, width] -> [B, T, D]; a layer that changes the width has no first residual."""
        heard = self.dropout(self.self_attn(self.norm1(x), valid))
        x = x + heard if x.shape == heard.shape else heard
        out: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return out


class MemoryAttention(nn.Module):
    """SANM: attention plus a depthwise convolution over the values of all heads (FSMN memory)."""

    def __init__(self, width: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        D, K = config.dim, config.kernel
        self.heads, self.dropout = config.heads, config.dropout
        self.linear_q_k_v = nn.Linear(width, 3 * D)
        self.linear_out = nn.Linear(D, D)
        self.fsmn_block = nn.Conv1d(D, D, K, padding=K // 2, groups=D, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[B, T, width] -> [B, T, D]; the memory does not pass through the output layer."""
        q, k, v = self.linear_q_k_v(x).chunk(3, -1)
        mask = None if valid is None else valid[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        q_h, k_h, v_h = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q_h, k_h, v_h, mask, dropout)
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out + self._memory(v, valid)

    def _memory(self, v: Tensor, valid: Tensor | None) -> Tensor:
        keep = None if valid is None else valid[..., None].to(v.dtype)
        v = v if keep is None else v * keep
        memory = self.fsmn_block(v.transpose(1, 2)).transpose(1, 2) + v
        memory = F.dropout(memory, self.dropout, self.training)
        return memory if keep is None else memory * keep


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.dim, config.ffn)
        self.w_2 = nn.Linear(config.ffn, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out: Tensor = self.w_2(self.dropout(self.w_1(x).relu()))
        return out


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 whatever the dtype of the weights."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., D] -> [..., D] in the dtype of the input."""
        shape, eps = self.normalized_shape, self.eps
        out = F.layer_norm(input.float(), shape, self.weight.float(), self.bias.float(), eps)
        return out.to(input.dtype)


class CTCHead(nn.Module):
    """One linear layer; symbol 0 is the blank."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(config.dim, config.ctc_size)


def _checked(lengths: Tensor, rows: int, longest: int) -> Tensor:
    if lengths.shape != (rows,) or bool(((lengths < 0) | (lengths > longest)).any()):
        raise ModelError(
            f"lengths {lengths.tolist()}: expected {rows} counts of 0 to {longest} feature rows"
        )
    return lengths

"""SenseVoiceSmall: a waveform becomes continuous frames, one per 60 ms, after four query frames.

Modules have the names of the published checkpoint. CMVN is a property of the training data, not a
weight: it is a plain float32 attribute, so it is not in the state dict (as published) and a cast of
the module to bfloat16 does not change it. It is stored beside the weights in the published format,
`am.mvn`; see `fbank.write_cmvn`.

Dimensions: B batch, T rows of features of width W, Q query frames, D width of the frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.sensevoice_encoder import Encoder, SenseVoiceConfig
from omni_diffusion.errors import MediaError, ModelError
from omni_diffusion.io import files, weights
from omni_diffusion.media import SPEECH_RATE, Waveform

__all__ = ["SenseVoice", "SenseVoiceConfig", "stacked_features"]

CMVN_FILE = "am.mvn"
OMNI_PREFIX = "model.audio_model.model."


class SenseVoice(nn.Module):
    """The encoder with its front end; `features` needs `cmvn` [2, W], `forward` does not."""

    def __init__(self, config: SenseVoiceConfig, cmvn: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.cmvn = cmvn
        self.embed = nn.Embedding(config.query_count, config.feature_width)
        self.encoder = Encoder(config)
        self.ctc = CTCHead(config) if config.ctc_size else None

    @classmethod
    def load(
        cls,
        source: Path | Mapping[str, Tensor],
        config: SenseVoiceConfig | None = None,
        cmvn: Tensor | None = None,
    ) -> Self:
        """The model in eval mode, from a weight file, a folder holding one, or open tensors.

        Without `cmvn`, `am.mvn` beside the weights is read. Raises WeightsError if names or shapes
        do not fit `config` (default: official), or for a broken file.
        """
        if isinstance(source, Path):
            folder = source if files.is_dir(source) else source.parent
            cmvn = fbank.read_cmvn(folder / CMVN_FILE) if cmvn is None else cmvn
            tensors, where = weights.read_tensors(source), str(source)
        else:
            tensors, where = dict(source), "SenseVoice weights"
        sizes = config or SenseVoiceConfig.official()
        model = weights.module_for(lambda: cls(sizes, cmvn), source)
        weights.load_into(model, tensors, rename=model.rename, where=where)
        return model.eval()

    @property
    def dim(self) -> int:
        """Width of the frames."""
        return self.config.dim

    def frames(self, samples: int) -> int:
        """Frames that `encode` makes of `samples` samples at 16 kHz, including the queries."""
        config = self.config
        return config.queries + fbank.stacked_count(fbank.frame_count(samples), config.lfr_n)

    def features(self, waveform: Waveform, generator: torch.Generator | None = None) -> Tensor:
        """Normalized features [T, W] in float32 of a waveform of any rate and channel count.

        generator: for the dither, if the config has any.
        Raises MediaError for an empty or non-finite waveform, ModelError without `cmvn`.
        """
        config = self.config
        if self.cmvn is None:
            raise ModelError(
                "SenseVoice has no CMVN",
                field="cmvn",
                fix="set cmvn=fbank.read_cmvn(<folder>/am.mvn)",
            )
        if self.cmvn.shape != (2, config.feature_width):
            raise ModelError(
                f"CMVN of shape {list(self.cmvn.shape)}",
                field="cmvn",
                value=tuple(self.cmvn.shape),
                fix=f"give [2, {config.feature_width}]",
            )
        return fbank.normalize(stacked_features(waveform, config, generator), self.cmvn)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames [B, Q + T, D] and their counts [B] of padded features [B, T, W].

        lengths: [B], rows that are not padding (None: all). Frames after a row's count have no
        meaning and do not affect the others. Raises ModelError for other shapes.
        """
        if features.ndim != 3 or features.shape[-1] != self.config.feature_width:
            raise ModelError(
                f"features of shape {list(features.shape)}",
                field="features",
                value=tuple(features.shape),
                fix=f"give [B, T, {self.config.feature_width}]",
            )
        B, T, _ = features.shape
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
        """Frames [Q + T, D] of one waveform, without gradient and dropout."""
        # no_grad and not inference_mode: the frames may be inputs of an adapter in training.
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                frames: Tensor = self(self.features(waveform)[None])[0][0]
                return frames
        finally:
            self.train(training)

    def ctc_logits(self, frames: Tensor) -> Tensor:
        """Logits [..., ctc_size] over the symbols of the CTC head; symbol 0 is its blank."""
        if self.ctc is None:
            raise ModelError(
                "this SenseVoice has no CTC head", field="ctc_size", value=0, fix="set it above 0"
            )
        logits: Tensor = self.ctc.ctc_lo(frames)
        return logits

    def rename(self, name: str) -> str | None:
        """Name of a tensor of an Omni-Diffusion or SenseVoiceSmall checkpoint here; None = skip.

        Other parts of an Omni-Diffusion checkpoint are skipped, and the CTC head if the config has
        none (Omni-Diffusion stores it without using it).
        """
        local = name.removeprefix(OMNI_PREFIX)
        foreign = local.startswith(("model.", "lm_head."))
        return None if foreign or (self.ctc is None and local.startswith("ctc.")) else local


def stacked_features(
    waveform: Waveform, config: SenseVoiceConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Features [T, W] before CMVN, the input of `fbank.measure_cmvn`."""
    if not waveform.samples.numel():
        raise MediaError("an empty waveform", fix="give at least 2 samples at 16 kHz")
    samples = waveform.mono().resample(SPEECH_RATE, config.resampling).samples[0]
    if not samples.isfinite().all():
        raise MediaError("the waveform has NaN or infinite samples", fix="give values in [-1, 1]")
    rows = fbank.fbank(samples, config.n_mels, config.dither, generator)
    return fbank.stack_frames(rows, config.lfr_m, config.lfr_n)


class CTCHead(nn.Module):
    """One linear layer; symbol 0 is the blank of CTC."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(config.dim, config.ctc_size)


def _checked(lengths: Tensor, rows: int, longest: int) -> Tensor:
    if lengths.shape != (rows,) or bool(((lengths < 0) | (lengths > longest)).any()):
        raise ModelError(
            f"lengths {lengths.tolist()}",
            field="lengths",
            value=lengths.tolist(),
            fix=f"give {rows} counts of 0 to {longest} feature rows",
        )
    return lengths

"""Training the speech encoder to hear words: an `Objective` for the loop.

CTC on whole words over the encoder's frames. The head that names the words is part of the module
while it trains; the backbone reads the frames below it. Dimension key: B clips, F rows of 10 ms,
Q query frames, T frames of 60 ms, V words and the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.sensevoice import SenseVoice
from omni_diffusion.errors import TrainingError
from omni_diffusion.media import Waveform
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.codecs.augment import Distortion
from omni_diffusion.mini.codecs.ctc import Clip


@dataclass(frozen=True)
class HearingConfig:
    """Clips in a step, and how they are changed."""

    batch: int = 24
    distortion: Distortion = field(default_factory=Distortion)


def log_mel(waveform: Waveform, n_mels: int = 80) -> Tensor:
    """The encoder's features before stacking and CMVN, [F, n_mels]: what a `Clip` is to hold."""
    return fbank.fbank(waveform.mono().resample(fbank.RATE).samples[0], n_mels)


def measure_cmvn(model: SenseVoice, clips: Sequence[Clip]) -> Tensor:
    """CMVN [2, W] of some clips' stacked rows."""
    config = model.config
    return fbank.measure_cmvn(
        fbank.stack_frames(clip.rows, config.lfr_m, config.lfr_n) for clip in clips
    )


class HearingObjective:
    """CTC loss on distorted clips; the model must have its CMVN and a head for the words."""

    def __init__(self, model: SenseVoice, clips: Sequence[Clip], config: HearingConfig) -> None:
        symbols = 1 + max(int(clip.words.max()) for clip in clips)
        if model.cmvn is None or model.config.ctc_size < symbols:
            raise TrainingError(
                f"a hearing model with ctc_size {model.config.ctc_size} and "
                f"{'no' if model.cmvn is None else 'a'} CMVN: expected a head of at least "
                f"{symbols} symbols and the bank's CMVN (measure_cmvn)"
            )
        self.model, self.clips, self.config = model, clips, config
        self.lengths = torch.tensor([len(clip.rows) for clip in clips])

    @property
    def module(self) -> nn.Module:
        """The encoder and its head."""
        return self.model

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Nats a word on one batch; the loss is the only figure."""
        change = self.config.distortion
        some = [self.clips[i] for i in ctc.draw(self.lengths, self.config.batch, generator)]
        mels = [change.spoil(change.bend(c.rows, generator), generator) for c in some]
        logits, counts = word_logits(self.model, mels)
        loss = ctc.ctc_loss(logits, counts, [clip.words for clip in some])
        return loss, {}


def word_logits(model: SenseVoice, mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of log-mels [F_i, D], and the counts [B] of real places."""
    config = model.config
    assert model.cmvn is not None
    stacked = [fbank.stack_frames(mel, config.lfr_m, config.lfr_n) for mel in mels]
    rows, counts = ctc.pad([fbank.normalize(row, model.cmvn) for row in stacked])
    frames, _ = model(rows, counts)
    return model.ctc_logits(frames[:, config.queries :]), counts


@torch.no_grad()
def word_error_rate(model: SenseVoice, clips: Sequence[Clip]) -> float:
    """Errors a word on clips as they were recorded; the model should be in eval mode."""
    return ctc.word_error_rate(clips, lambda some: word_logits(model, [clip.rows for clip in some]))

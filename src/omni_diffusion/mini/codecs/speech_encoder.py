"""Training objective of the speech encoder: CTC on whole words over its frames.

The CTC head is part of the module during training; the backbone reads the frames below it.
Dimensions: B clips, F rows of 10 ms,
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
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.codecs.augment import Augmentation
from omni_diffusion.mini.codecs.ctc import Clip


@dataclass(frozen=True)
class SpeechEncoderTrainingConfig:
    """batch: clips in a step. augmentation: random changes of the clips."""

    batch: int = 24
    augmentation: Augmentation = field(default_factory=Augmentation)


def kaldi_log_mel(waveform: Waveform, n_mels: int = 80) -> Tensor:
    """The encoder's features before stacking and CMVN, [F, n_mels]: the `rows` of a `Clip`."""
    return fbank.fbank(waveform.mono().resample(SPEECH_RATE).samples[0], n_mels)


def clips_cmvn(model: SenseVoice, clips: Sequence[Clip]) -> Tensor:
    """CMVN [2, W] of some clips' stacked rows."""
    config = model.config
    return fbank.measure_cmvn(
        fbank.stack_frames(clip.rows, config.lfr_m, config.lfr_n) for clip in clips
    )


class SpeechEncoderObjective:
    """CTC loss on augmented clips.

    Raises TrainingError unless the model has its CMVN and a CTC head for all words.
    """

    def __init__(
        self, model: SenseVoice, clips: Sequence[Clip], config: SpeechEncoderTrainingConfig
    ) -> None:
        symbols = 1 + max(int(clip.words.max()) for clip in clips)
        if model.cmvn is None or model.config.ctc_size < symbols:
            raise TrainingError(
                f"speech encoder with ctc_size {model.config.ctc_size} and "
                f"{'no' if model.cmvn is None else 'a'} CMVN; expected a head of at least "
                f"{symbols} symbols and the CMVN of the clips (clips_cmvn)",
                field="model",
                value=model.config.ctc_size,
            )
        self.model, self.clips, self.config = model, clips, config
        self.lengths = torch.tensor([len(clip.rows) for clip in clips])

    @property
    def module(self) -> nn.Module:
        """The encoder and its head."""
        return self.model

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Nats a word on one batch; no further metrics."""
        change = self.config.augmentation
        some = [self.clips[i] for i in ctc.draw(self.lengths, self.config.batch, generator)]
        mels = [change.spec_augment(change.warp(c.rows, generator), generator) for c in some]
        logits, counts = word_logits(self.model, mels)
        loss = ctc.ctc_loss(logits, counts, [clip.words for clip in some])
        return loss, {}


def word_logits(model: SenseVoice, mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of log-mels [F_i, D], and the counts [B] of their frames."""
    config = model.config
    assert model.cmvn is not None
    stacked = [fbank.stack_frames(mel, config.lfr_m, config.lfr_n) for mel in mels]
    rows, counts = ctc.pad([fbank.normalize(row, model.cmvn) for row in stacked])
    frames, _ = model(rows, counts)
    return model.ctc_logits(frames[:, config.queries :]), counts


@torch.no_grad()
def word_error_rate(model: SenseVoice, clips: Sequence[Clip]) -> float:
    """Word error rate on clips without augmentation; the model should be in eval mode."""
    return ctc.ctc_word_error_rate(
        clips, lambda some: word_logits(model, [clip.rows for clip in some])
    )

"""Training the flow decoder on the answer voice: an `Objective` for the loop.

The published loss, and one term of ours: the decoder's means should resemble the mel on their own
(the prior loss of Grad-TTS and Matcha-TTS), which a small decoder learns long before the flow.
Dimension key: B clips, N codes, M mel frames, C mel bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.mel import LISTEN_RATE, SPEAK_RATE, log_mel
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.errors import DataError
from omni_diffusion.media import Waveform
from omni_diffusion.mini.codecs import ctc


@dataclass(frozen=True)
class FlowTrainingConfig:
    """Clips in a step, weight of the prior loss, share of codes that are replaced at random.

    Wrong codes now and then teach the decoder to forgive a language model's slips.
    """

    batch: int = 12
    prior: float = 1.0
    slips: float = 0.03


@dataclass(frozen=True)
class Voiced:
    """One clip of the answer voice: codes [N] and the log-mel [C, M] that they are to become."""

    codes: Tensor
    mel: Tensor


@torch.no_grad()
def voiced(waves: Iterable[Waveform], tokenizer: SpeechTokenizer, flow: Flow) -> list[Voiced]:
    """Codes and mels of clips; the sound is filled with silence to whole codes, as codes are."""
    step = tokenizer.config.samples_per_code * SPEAK_RATE // LISTEN_RATE
    made = []
    for wave in waves:
        codes = tokenizer.encode(wave)
        samples = wave.first_channel().resample(SPEAK_RATE).samples[0]
        filled = F.pad(samples, (0, len(codes) * step - len(samples)))
        mel = log_mel(filled, flow.config.mel_bins)[:, : flow.lengths(len(codes))]
        made.append(Voiced(codes, mel))
    if not made:
        raise DataError("no clip to learn the answer voice from: speak the bank first")
    return made


class FlowObjective:
    """Flow matching + prior on batches of like length."""

    def __init__(self, flow: Flow, clips: Sequence[Voiced], config: FlowTrainingConfig) -> None:
        self.flow, self.clips, self.config = flow, clips, config
        self.lengths = torch.tensor([clip.mel.shape[1] for clip in clips])

    @property
    def module(self) -> nn.Module:
        """The decoder."""
        return self.flow

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Velocity's squared error plus the means' absolute error, in nepers of magnitude."""
        config = self.config
        some = [self.clips[i] for i in ctc.draw(self.lengths, config.batch, generator)]
        codes, mel, n_codes, n_frames = batch_of(some)
        slips = torch.rand(codes.shape, generator=generator) < config.slips
        others = torch.randint(self.flow.config.vocab_size, codes.shape, generator=generator)
        codes = torch.where(slips, others, codes)
        velocity = self.flow.loss(
            codes, mel, n_tokens=n_codes, n_frames=n_frames, generator=generator
        )
        prior = prior_loss(self.flow, codes, mel, n_codes, n_frames)
        figures = {"velocity": float(velocity.detach()), "prior": float(prior.detach())}
        return velocity + config.prior * prior, figures


def batch_of(clips: Sequence[Voiced]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [B, N], mels [B, C, M], and the counts [B] of each that are real."""
    n_codes = torch.tensor([len(clip.codes) for clip in clips])
    mels, n_frames = ctc.pad([clip.mel.T for clip in clips])
    codes = [F.pad(clip.codes, (0, int(n_codes.max()) - len(clip.codes))) for clip in clips]
    return torch.stack(codes), mels.mT, n_codes, n_frames


def prior_loss(flow: Flow, codes: Tensor, mel: Tensor, n_codes: Tensor, n_frames: Tensor) -> Tensor:
    """Mean absolute error of the means, taken as a mel."""
    means = flow.means(codes, mel.shape[-1], n_codes, n_frames)
    real = torch.arange(mel.shape[-1]) < n_frames[:, None]
    return (means - mel).abs().mT[real].mean()


@torch.no_grad()
def start_at_mean(flow: Flow, clips: Sequence[Voiced]) -> None:
    """Let the untrained decoder say the mean spectrum, far from zero in log-mel."""
    mean = torch.cat([clip.mel for clip in clips], dim=1).mean(1)
    last = flow.length_regulator.model[-1]
    for layer in (last, flow.decoder.estimator.final_proj):
        assert isinstance(layer, nn.Conv1d)
        assert layer.bias is not None
        layer.bias.copy_(mean)


@torch.no_grad()
def measure(flow: Flow, clips: Sequence[Voiced], steps: int = 10) -> dict[str, float]:
    """Mean absolute error, in nepers of magnitude, of drawn mels and of the bare means."""
    drawn, bare = [], []
    for clip in clips:
        frames = clip.mel.shape[1]
        mel = flow.sample(clip.codes[None], steps=steps)[0]
        drawn.append(float((mel - clip.mel).abs().mean()))
        means = flow.means(clip.codes[None], frames)[0]
        bare.append(float((means - clip.mel).abs().mean()))
    return {"drawn": sum(drawn) / len(drawn), "means": sum(bare) / len(bare)}

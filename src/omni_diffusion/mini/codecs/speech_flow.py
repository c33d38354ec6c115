"""Training objective of the flow decoder, on the answer voice.

Flow matching loss plus a prior loss (Grad-TTS, Matcha-TTS): the decoder's means should resemble the
mel, which a small decoder learns long before the flow. Dimensions: B clips, N codes, M mel frames,
C mel bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.mel import VOICE_RATE, voice_log_mel
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.errors import DataError
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.phrases import join_phrases


@dataclass(frozen=True)
class FlowTrainingConfig:
    """batch: clips in a step. prior: weight of the prior loss. slips: fraction of random codes.

    Random codes make the decoder robust to mistakes of the language model.
    """

    batch: int = 12
    prior: float = 1.0
    slips: float = 0.03


@dataclass(frozen=True)
class FlowClip:
    """One clip of the answer voice: codes [N] and their log-mel [C, M]."""

    codes: Tensor
    mel: Tensor


@torch.no_grad()
def flow_clips(waves: Iterable[Waveform], tokenizer: SpeechTokenizer, flow: Flow) -> list[FlowClip]:
    """Codes and mels of recordings, padded with silence to whole codes.

    Raises DataError if there is no recording.
    """
    clips = [_clip(*_encoded(wave, tokenizer), flow) for wave in waves]
    if not clips:
        raise DataError("no recording of the answer voice; record the speech first", field="waves")
    return clips


@torch.no_grad()
def joined_clips(
    texts: Iterable[str], takes: Mapping[str, Waveform], tokenizer: SpeechTokenizer, flow: Flow
) -> list[FlowClip]:
    """Codes and mels of sentences that are joined from recorded phrases.

    takes: by phrase, its recording. Raises DataError for a sentence with another phrase.
    """
    encoded = {phrase: _encoded(wave, tokenizer) for phrase, wave in takes.items()}
    codes = {phrase: one for phrase, (one, _) in encoded.items()}
    samples = {phrase: one for phrase, (_, one) in encoded.items()}
    return [_clip(join_phrases(text, codes), join_phrases(text, samples), flow) for text in texts]


def _encoded(wave: Waveform, tokenizer: SpeechTokenizer) -> tuple[Tensor, Tensor]:
    """Codes [n] and the samples of as many codes, at VOICE_RATE."""
    codes = tokenizer.encode(wave)
    samples = wave.first_channel().resample(VOICE_RATE).samples[0]
    step = tokenizer.config.samples_per_code * VOICE_RATE // SPEECH_RATE
    return codes, F.pad(samples, (0, len(codes) * step - len(samples)))


def _clip(codes: Tensor, samples: Tensor, flow: Flow) -> FlowClip:
    mel = voice_log_mel(samples, flow.config.mel_bins)
    return FlowClip(codes, mel[:, : flow.lengths(len(codes))])


class FlowObjective:
    """Flow matching loss + prior loss on batches of similar length."""

    def __init__(self, flow: Flow, clips: Sequence[FlowClip], config: FlowTrainingConfig) -> None:
        self.flow, self.clips, self.config = flow, clips, config
        self.lengths = torch.tensor([clip.mel.shape[1] for clip in clips])

    @property
    def module(self) -> nn.Module:
        """The decoder."""
        return self.flow

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the velocity plus absolute error of the means (nepers of magnitude)."""
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
        metrics = {"velocity": float(velocity.detach()), "prior": float(prior.detach())}
        return velocity + config.prior * prior, metrics


def batch_of(clips: Sequence[FlowClip]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [B, N], mels [B, C, M], and the counts [B] of each without padding."""
    n_codes = torch.tensor([len(clip.codes) for clip in clips])
    mels, n_frames = ctc.pad([clip.mel.T for clip in clips])
    codes = [F.pad(clip.codes, (0, int(n_codes.max()) - len(clip.codes))) for clip in clips]
    return torch.stack(codes), mels.mT, n_codes, n_frames


def prior_loss(flow: Flow, codes: Tensor, mel: Tensor, n_codes: Tensor, n_frames: Tensor) -> Tensor:
    """Mean absolute error of the decoder's means against the mel."""
    means = flow.means(codes, mel.shape[-1], n_codes, n_frames)
    real = torch.arange(mel.shape[-1]) < n_frames[:, None]
    return (means - mel).abs().mT[real].mean()


@torch.no_grad()
def start_at_mean(flow: Flow, clips: Sequence[FlowClip]) -> None:
    """Initialize the biases with the mean spectrum, which is far from zero in log-mel."""
    mean = torch.cat([clip.mel for clip in clips], dim=1).mean(1)
    last = flow.length_regulator.model[-1]
    for layer in (last, flow.decoder.estimator.final_proj):
        assert isinstance(layer, nn.Conv1d)
        assert layer.bias is not None
        layer.bias.copy_(mean)


@torch.no_grad()
def measure_flow(flow: Flow, clips: Sequence[FlowClip], steps: int = 10) -> dict[str, float]:
    """Mean absolute error, in nepers of magnitude, of sampled mels and of the means alone."""
    drawn, bare = [], []
    for clip in clips:
        frames = clip.mel.shape[1]
        mel = flow.sample(clip.codes[None], steps=steps)[0]
        drawn.append(float((mel - clip.mel).abs().mean()))
        means = flow.means(clip.codes[None], frames)[0]
        bare.append(float((means - clip.mel).abs().mean()))
    return {"drawn": sum(drawn) / len(drawn), "means": sum(bare) / len(bare)}

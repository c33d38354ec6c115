"""Training objective of the speech tokenizer.

Codes should carry words and sound. Words come from CTC on the quantized vectors, sound from a small
decoder that predicts the mel around each code; both heads are dropped after training. A consistency
loss is added: a vector should not change if only a piece of the clip is given, because codes that
depend on distant frames are hard to predict from text. Dimensions: B clips, F mel
frames of 10 ms, N = F / 8 codes, D width, C mel bins, V words and the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.mel import WHISPER_HOP
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.codecs.augment import Augmentation
from omni_diffusion.mini.codecs.codebook import CodebookConfig, EmaCodebook
from omni_diffusion.mini.codecs.ctc import Clip
from omni_diffusion.mini.speech_plan import ANSWER_VOICE

NEPER = 1 / (4 * math.log(10))  # one neper of power in Whisper's log-mel, (log10 + 4) / 4
EDGE = 2  # codes at each end of a piece that depend on what was cut off


@dataclass(frozen=True)
class TokenizerConfig:
    """Batch size, loss weights and codebook schedule.

    answer_share: fraction of clips in the answer voice, the only voice that the model speaks.
    """

    batch: int = 16
    answer_share: float = 0.85
    sketch: float = 1.0
    commit: float = 1.0
    steady: float = 0.2
    quantize_from: int = 300  # step; earlier vectors are not quantized
    restart_until: int = 2000
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(chance=0.25, tract=0.04)
    )


def clip_log_mel(tokenizer: SpeechTokenizer, waveform: Waveform) -> Tensor:
    """The tokenizer's features of a waveform, [F, C], without padding: the `rows` of a `Clip`."""
    samples = waveform.first_channel().resample(SPEECH_RATE).samples[0]
    features, _ = tokenizer.features([samples])
    return features[0].T[: -(-len(samples) // WHISPER_HOP)].contiguous()


class TokenizerTraining(nn.Module):
    """The tokenizer with its codebook averages and the two heads of training."""

    def __init__(
        self, tokenizer: SpeechTokenizer, symbols: int, codebook: CodebookConfig, width: int = 256
    ) -> None:
        super().__init__()
        config = tokenizer.config
        self.tokenizer = tokenizer
        self.codebook = EmaCodebook(config.codebook_size, config.d_model, codebook)
        self.words = nn.Sequential(
            nn.Conv1d(config.d_model, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, symbols, 1)
        )
        self.sketch = MelSketch(config.d_model, config.n_mels, 2 * config.pool, width)
        tokenizer.codebook.weight.requires_grad_(False)
        _start(tokenizer)


class MelSketch(nn.Module):
    """Predicts mel from codes, two neighbours on each side and the clip's mean spectrum.

    The mean carries voice and loudness, so the codes need not.
    """

    def __init__(self, inputs: int, bins: int, frames: int, width: int) -> None:
        super().__init__()
        self.bins = bins
        self.enter = nn.Conv1d(inputs, width, 3, padding=1)
        self.voice = nn.Linear(bins, width)
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.leave = nn.Conv1d(width, frames * bins, 1)

    def forward(self, codes: Tensor, mean: Tensor) -> Tensor:
        """[B, D, N] and mean spectra [B, C] -> mel [B, F, C]."""
        h = F.gelu(self.enter(codes) + self.voice(mean)[:, :, None])
        drawn: Tensor = self.leave(F.gelu(self.mix(h)))
        return drawn.mT.reshape(len(h), -1, self.bins)


@dataclass(frozen=True)
class SpeechBatch:
    """wanted: target mels [B, F, C]. given: input mels [B, F, C]. words: symbols of each clip.

    frames, codes: which frames [B, F] and codes [B, N] are not padding.
    """

    wanted: Tensor
    given: Tensor
    frames: Tensor
    codes: Tensor
    words: list[Tensor]

    @property
    def counts(self) -> Tensor:
        """Number of codes of each clip, [B]."""
        return self.codes.sum(1)


class TokenizerObjective:
    """CTC loss + mel loss + commitment loss + consistency loss."""

    def __init__(
        self, training: TokenizerTraining, clips: Sequence[Clip], config: TokenizerConfig
    ) -> None:
        self.training, self.clips, self.config = training, clips, config
        self.lengths = torch.tensor([len(clip.rows) for clip in clips])
        is_answer = torch.tensor([clip.line.voice == ANSWER_VOICE for clip in clips])
        shares = torch.where(is_answer, config.answer_share, 1 - config.answer_share)
        self.weights = shares / torch.where(is_answer, is_answer.sum(), (~is_answer).sum())

    @property
    def module(self) -> nn.Module:
        """Tokenizer, codebook averages and the two heads."""
        return self.training

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum on one batch; metrics in nats a word and nepers."""
        training, config = self.training, self.config
        batch = self._batch(generator)
        z = training.tokenizer.pool(batch.given.mT, batch.frames)
        codes, metrics = self._quantized(step, z, batch.codes, generator)
        words, sketch = losses(training, codes, batch)
        commit = (z - codes.detach())[batch.codes].square().mean()
        steady = self._steady(batch, z, generator)
        loss = words + config.sketch * sketch + config.commit * commit + config.steady * steady
        return loss, metrics | {
            "words": float(words.detach()),
            "sketch": float(sketch.detach()),
            "commit": float(commit.detach()),
            "steady": float(steady.detach()),
        }

    def _batch(self, generator: torch.Generator) -> SpeechBatch:
        change, batch = self.config.augmentation, self.config.batch
        some = [self.clips[i] for i in ctc.draw(self.lengths, batch, generator, self.weights)]
        wanted = [change.warp(clip.rows, generator, NEPER) for clip in some]
        given = [change.spec_augment(mel, generator, NEPER) for mel in wanted]
        return speech_batch(self.training.tokenizer, wanted, given, [c.words for c in some])

    def _quantized(
        self, step: int, z: Tensor, real: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Nearest codes of z [B, N, D] with z's gradient; z itself before `quantize_from`."""
        config, averages = self.config, self.training.codebook
        if step < config.quantize_from:
            return z, {}
        table, vectors = self.training.tokenizer.codebook.weight, z.detach()[real]
        if step == config.quantize_from:
            averages.start(table, vectors, generator)
        ids = self.training.tokenizer.quantize(z.detach())
        codes = z + (table[ids] - z).detach()
        averages.update(table, vectors, ids[real])
        if step < config.restart_until and step % config.codebook.restart_every == 0:
            averages.restart(table, vectors, generator)
        share = averages.use / averages.use.sum()
        return codes, {"perplexity": float(torch.special.entr(share).sum().exp())}

    def _steady(self, batch: SpeechBatch, z: Tensor, generator: torch.Generator) -> Tensor:
        """Squared change of z, relative to its variance, if only a piece of a clip is given.

        Computed on half of the batch, without the EDGE codes at both ends of a piece.
        """
        rows = len(z) // 2
        counts = batch.counts[:rows].tolist()
        size = max(2 * EDGE + 1, min(counts, default=0) // 2)
        if not self.config.steady or not rows or min(counts) < size:
            return z.new_zeros(())
        per = batch.given.shape[1] // z.shape[1]
        draws = torch.rand(rows, generator=generator).tolist()
        starts = [int(u * (count - size + 1)) for u, count in zip(draws, counts, strict=True)]
        pieces = [batch.given[i, per * s : per * (s + size)] for i, s in enumerate(starts)]
        whole = torch.stack([z[i, s + EDGE : s + size - EDGE] for i, s in enumerate(starts)])
        sound = torch.ones(rows, per * size, dtype=torch.bool)
        alone = self.training.tokenizer.pool(torch.stack(pieces).mT, sound)[:, EDGE:-EDGE]
        spread = z.detach()[batch.codes].var(0).mean().clamp_min(1e-6)
        return (alone - whole).square().mean() / spread


def losses(training: TokenizerTraining, codes: Tensor, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """Losses of codes [B, N, D]: CTC in nats a word, mean absolute mel error in nepers."""
    shown = (codes * batch.codes[..., None]).mT
    logits = training.words(shown).mT
    words = ctc.ctc_loss(logits, batch.counts, batch.words)
    real = batch.frames[..., None]
    mean = (batch.wanted * real).sum(1) / real.sum(1)
    drawn = training.sketch(shown, mean)
    gap = (drawn - batch.wanted).abs()[batch.frames].mean() / NEPER
    return words, gap


def speech_batch(
    tokenizer: SpeechTokenizer, wanted: list[Tensor], given: list[Tensor], words: list[Tensor]
) -> SpeechBatch:
    """Mels [F_i, C] as a padded batch."""
    multiple = 2 * tokenizer.config.pool
    clean, counts = ctc.pad(wanted, multiple)
    shown, _ = ctc.pad(given, multiple)
    frames = torch.arange(clean.shape[1]) < counts[:, None]
    return SpeechBatch(clean, shown, frames, tokenizer.valid(frames), words)


@torch.no_grad()
def measure_codes(training: TokenizerTraining, clips: Sequence[Clip]) -> dict[str, float]:
    """Metrics on clips without augmentation: word errors, nepers, used codes, perplexity."""
    tokenizer = training.tokenizer
    use = torch.zeros(tokenizer.config.codebook_size)
    gaps: list[float] = []

    def predict(some: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        mels = [clip.rows for clip in some]
        batch = speech_batch(tokenizer, mels, mels, [clip.words for clip in some])
        ids = tokenizer(batch.given.mT, batch.frames)
        use.add_(torch.bincount(ids[batch.codes], minlength=len(use)))
        codes = tokenizer.codebook(ids)
        gaps.append(float(losses(training, codes, batch)[1]))
        return training.words((codes * batch.codes[..., None]).mT).mT, batch.counts

    errors = ctc.ctc_word_error_rate(clips, predict)
    share = use / use.sum()
    return {
        "word_errors": errors,
        "sketch": sum(gaps) / len(gaps),
        "codes": float((use > 0).sum()),
        "perplexity": float(torch.special.entr(share).sum().exp()),
    }


@torch.no_grad()
def _start(tokenizer: SpeechTokenizer) -> None:
    """Initialize so that vectors depend on the sound.

    The position embeddings have the scale of a trained Whisper's features, which hides the sound
    before training; they are scaled down, and the convolutions preserve the scale of their input.
    """
    for conv in (tokenizer.conv1, tokenizer.conv2):
        nn.init.kaiming_normal_(conv.weight)
    tokenizer.embed_positions.weight.mul_(0.3)

"""Training the speech tokenizer: an `Objective` for the loop.

Codes are to carry words and sound. Words come from CTC on the quantised vectors, sound from a
small decoder that sketches the mel of each code's surroundings; both are thrown away afterwards.
One term is ours: a vector should stay the same when only a piece of the clip is heard, since codes
that depend on far places are needlessly hard to predict from words. Dimension key: B clips, F mel
frames of 10 ms, N = F / 8 codes, D width, C mel bins, V words and the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.mel import LISTEN_HOP, LISTEN_RATE
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.media import Waveform
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.codecs.augment import Distortion
from omni_diffusion.mini.codecs.codebook import CodebookConfig, MovingCodebook
from omni_diffusion.mini.codecs.ctc import Clip
from omni_diffusion.mini.speech_plan import ANSWER_VOICE

NEPER = 1 / (4 * math.log(10))  # one neper of power in Whisper's log-mel, (log10 + 4) / 4
EDGE = 2  # codes at each end of a piece that cannot know what was cut off


@dataclass(frozen=True)
class TokenizerConfig:
    """Batch, loss weights, and when the codebook begins and ends to move about.

    `answer_share` is the share of draws in the answer voice, the one that is spoken with codes.
    """

    batch: int = 16
    answer_share: float = 0.85
    sketch: float = 1.0
    commit: float = 1.0
    steady: float = 0.2
    quantize_from: int = 300  # steps; earlier the vectors are still finding their places
    restart_until: int = 2000
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    distortion: Distortion = field(default_factory=lambda: Distortion(chance=0.25, tract=0.04))


def log_mel(tokenizer: SpeechTokenizer, waveform: Waveform) -> Tensor:
    """The tokenizer's features of a waveform, [F, C], without padding: what a `Clip` is to hold."""
    samples = waveform.first_channel().resample(LISTEN_RATE).samples[0]
    features, _ = tokenizer.features([samples])
    return features[0].T[: -(-len(samples) // LISTEN_HOP)].contiguous()


class TokenizerTraining(nn.Module):
    """The tokenizer with what only its training needs."""

    def __init__(
        self, tokenizer: SpeechTokenizer, symbols: int, codebook: CodebookConfig, width: int = 256
    ) -> None:
        super().__init__()
        config = tokenizer.config
        self.tokenizer = tokenizer
        self.codebook = MovingCodebook(config.codebook_size, config.d_model, codebook)
        self.words = nn.Sequential(
            nn.Conv1d(config.d_model, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, symbols, 1)
        )
        self.sketch = MelSketch(config.d_model, config.n_mels, 2 * config.pool, width)
        tokenizer.codebook.weight.requires_grad_(False)
        _start(tokenizer)


class MelSketch(nn.Module):
    """Codes -> mel, knowing two codes on each side and the clip's mean spectrum.

    The mean tells voice and loudness, so that codes need not.
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
class Heard:
    """A batch: mels [B, F, C] as wanted and as given, places [B, F] and [B, N] that are sound."""

    wanted: Tensor
    given: Tensor
    frames: Tensor
    codes: Tensor
    words: list[Tensor]

    @property
    def counts(self) -> Tensor:
        """Codes of each clip, [B]."""
        return self.codes.sum(1)


class TokenizerObjective:
    """Words + sketch + commitment + steadiness."""

    def __init__(
        self, training: TokenizerTraining, clips: Sequence[Clip], config: TokenizerConfig
    ) -> None:
        self.training, self.clips, self.config = training, clips, config
        self.lengths = torch.tensor([len(clip.rows) for clip in clips])
        own = torch.tensor([clip.line.voice == ANSWER_VOICE for clip in clips])
        shares = torch.where(own, config.answer_share, 1 - config.answer_share)
        self.weights = shares / torch.where(own, own.sum(), (~own).sum())

    @property
    def module(self) -> nn.Module:
        """Tokenizer, codebook sums and the two heads."""
        return self.training

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum on one batch; figures in nats a word and nepers."""
        training, config = self.training, self.config
        heard = self._batch(generator)
        z = training.tokenizer.pool(heard.given.mT, heard.frames)
        codes, figures = self._quantized(step, z, heard.codes, generator)
        words, sketch = losses(training, codes, heard)
        commit = (z - codes.detach())[heard.codes].square().mean()
        steady = self._steady(heard, z, generator)
        loss = words + config.sketch * sketch + config.commit * commit + config.steady * steady
        return loss, figures | {
            "words": float(words.detach()),
            "sketch": float(sketch.detach()),
            "commit": float(commit.detach()),
            "steady": float(steady.detach()),
        }

    def _batch(self, generator: torch.Generator) -> Heard:
        change, batch = self.config.distortion, self.config.batch
        some = [self.clips[i] for i in ctc.draw(self.lengths, batch, generator, self.weights)]
        wanted = [change.bend(clip.rows, generator, NEPER) for clip in some]
        given = [change.spoil(mel, generator, NEPER) for mel in wanted]
        return heard_batch(self.training.tokenizer, wanted, given, [c.words for c in some])

    def _quantized(
        self, step: int, z: Tensor, real: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Nearest codes of z [B, N, D] with z's gradient; z itself while nothing is quantised."""
        config, moving = self.config, self.training.codebook
        if step < config.quantize_from:
            return z, {}
        table, vectors = self.training.tokenizer.codebook.weight, z.detach()[real]
        if step == config.quantize_from:
            moving.start(table, vectors, generator)
        ids = self.training.tokenizer.quantize(z.detach())
        codes = z + (table[ids] - z).detach()
        moving.follow(table, vectors, ids[real])
        if step < config.restart_until and step % config.codebook.restart_every == 0:
            moving.restart(table, vectors, generator)
        share = moving.use / moving.use.sum()
        return codes, {"perplexity": float(torch.special.entr(share).sum().exp())}

    def _steady(self, heard: Heard, z: Tensor, generator: torch.Generator) -> Tensor:
        """Squared change of z, against its variance, when a clip's piece is heard alone.

        Half of the batch; the ends of a piece, which are missing something, do not count.
        """
        rows = len(z) // 2
        counts = heard.counts[:rows].tolist()
        size = max(2 * EDGE + 1, min(counts, default=0) // 2)
        if not self.config.steady or not rows or min(counts) < size:
            return z.new_zeros(())
        per = heard.given.shape[1] // z.shape[1]
        draws = torch.rand(rows, generator=generator).tolist()
        starts = [int(u * (count - size + 1)) for u, count in zip(draws, counts, strict=True)]
        pieces = [heard.given[i, per * s : per * (s + size)] for i, s in enumerate(starts)]
        whole = torch.stack([z[i, s + EDGE : s + size - EDGE] for i, s in enumerate(starts)])
        sound = torch.ones(rows, per * size, dtype=torch.bool)
        alone = self.training.tokenizer.pool(torch.stack(pieces).mT, sound)[:, EDGE:-EDGE]
        spread = z.detach()[heard.codes].var(0).mean().clamp_min(1e-6)
        return (alone - whole).square().mean() / spread


def losses(training: TokenizerTraining, codes: Tensor, heard: Heard) -> tuple[Tensor, Tensor]:
    """What codes [B, N, D] say: nats a word, and the sketch's mean error in nepers."""
    shown = (codes * heard.codes[..., None]).mT
    logits = training.words(shown).mT
    words = ctc.ctc_loss(logits, heard.counts, heard.words)
    real = heard.frames[..., None]
    mean = (heard.wanted * real).sum(1) / real.sum(1)
    drawn = training.sketch(shown, mean)
    gap = (drawn - heard.wanted).abs()[heard.frames].mean() / NEPER
    return words, gap


def heard_batch(
    tokenizer: SpeechTokenizer, wanted: list[Tensor], given: list[Tensor], words: list[Tensor]
) -> Heard:
    """Mels [F_i, C] as a padded batch."""
    multiple = 2 * tokenizer.config.pool
    clean, counts = ctc.pad(wanted, multiple)
    shown, _ = ctc.pad(given, multiple)
    frames = torch.arange(clean.shape[1]) < counts[:, None]
    return Heard(clean, shown, frames, tokenizer.kept(frames), words)


@torch.no_grad()
def measure(training: TokenizerTraining, clips: Sequence[Clip]) -> dict[str, float]:
    """Figures of the codes on clips as recorded: word errors, nepers, codes in use, perplexity."""
    tokenizer = training.tokenizer
    use = torch.zeros(tokenizer.config.codebook_size)
    gaps: list[float] = []

    def hear(some: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        mels = [clip.rows for clip in some]
        heard = heard_batch(tokenizer, mels, mels, [clip.words for clip in some])
        ids = tokenizer(heard.given.mT, heard.frames)
        use.add_(torch.bincount(ids[heard.codes], minlength=len(use)))
        codes = tokenizer.codebook(ids)
        gaps.append(float(losses(training, codes, heard)[1]))
        return training.words((codes * heard.codes[..., None]).mT).mT, heard.counts

    errors = ctc.word_error_rate(clips, hear)
    share = use / use.sum()
    return {
        "word_errors": errors,
        "sketch": sum(gaps) / len(gaps),
        "codes": float((use > 0).sum()),
        "perplexity": float(torch.special.entr(share).sum().exp()),
    }


@torch.no_grad()
def _start(tokenizer: SpeechTokenizer) -> None:
    """Begin with vectors that tell sounds apart.

    The published positions are as loud as a trained Whisper's features; before training they would
    drown the sound, so they begin fainter, and the convolutions keep the size of what they hear.
    """
    for conv in (tokenizer.conv1, tokenizer.conv2):
        nn.init.kaiming_normal_(conv.weight)
    tokenizer.embed_positions.weight.mul_(0.3)

"""CTC training data: clips with their words, batches of similar length, loss and word errors.

The caller chooses the features of a clip. The symbols are words, because characters do not fit: the
shortest word lasts 0.17 s, two frames of 80 ms. Dimensions: B clips, F feature rows, D feature
width, T frames with logits, V symbols (0 is the blank).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.media import Waveform
from omni_diffusion.mini.speech_plan import Utterance

POOL = 8  # batches that are drawn together and sorted by length; one of them is used


@dataclass(frozen=True)
class Words:
    """The words of the transcripts as CTC symbols: word i is symbol i + 1, the blank is 0."""

    known: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """All words of the texts in alphabetical order."""
        return cls(tuple(sorted({word for text in texts for word in spoken_words(text)})))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls(tuple(json.loads(path.read_text())))

    def save(self, path: Path) -> None:
        """Write the words as a JSON list."""
        files.write_text(path, json.dumps(self.known))

    @property
    def size(self) -> int:
        """Number of symbols, including the blank."""
        return len(self.known) + 1

    def encode(self, text: str) -> Tensor:
        """Symbols int64 [n] of a text. Raises DataError for an unknown word."""
        symbols = {word: i + 1 for i, word in enumerate(self.known)}
        unknown = [word for word in spoken_words(text) if word not in symbols]
        if unknown:
            raise DataError(
                f"the words {', '.join(unknown)} of {text!r} are not among the {len(self.known)} "
                "known words; build Words from all training transcripts",
                value=unknown[0],
            )
        return torch.tensor([symbols[word] for word in spoken_words(text)], dtype=torch.long)

    def decode(self, symbols: Iterable[int]) -> str:
        """The words of symbols above 0, joined by spaces."""
        return " ".join(self.known[symbol - 1] for symbol in symbols)


def spoken_words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


@dataclass(frozen=True)
class Clip:
    """One recorded line: its features [F, D] and its words as symbols [n]."""

    line: Utterance
    rows: Tensor
    words: Tensor


def recorded_lines(
    lines: Iterable[Utterance], folder: Path, *, split: str = "train"
) -> Iterator[tuple[Utterance, Waveform]]:
    """The lines of one split that have a file in `folder`, with their recordings."""
    for line in lines:
        path = folder / f"{line.index:05d}.flac"
        if line.split == split and path.exists():
            yield line, Waveform.read(path)


def clips(
    recorded: Iterable[tuple[Utterance, Waveform]],
    words: Words,
    features: Callable[[Waveform], Tensor],
) -> list[Clip]:
    """Compute the features [F, D] of every clip. Raises DataError if there is no recording."""
    made = [Clip(line, features(wave), words.encode(line.text)) for line, wave in recorded]
    if not made:
        raise DataError(
            "no line of the plan is recorded; record the speech first", field="recorded"
        )
    return made


def draw(
    lengths: Tensor, batch: int, generator: torch.Generator, weights: Tensor | None = None
) -> list[int]:
    """Indices of clips of similar length, drawn in proportion to their weights.

    lengths, weights: [n] (default: equal weights). Draws `POOL` batches with replacement, sorts
    them by length and takes one at random: little padding, and no length is preferred.
    """
    weights = torch.ones(len(lengths)) if weights is None else weights
    drawn = torch.multinomial(weights, POOL * batch, replacement=True, generator=generator)
    ordered = drawn[lengths[drawn].argsort(stable=True)]
    at = int(torch.randint(POOL, (), generator=generator))
    return ordered[at * batch : (at + 1) * batch].tolist()


def pad(rows: Sequence[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Features [F_i, D] as one [B, F, D], with their counts [B].

    F is a multiple of `multiple`. The padding value of a clip is its minimum (silence).
    """
    counts = torch.tensor([len(row) for row in rows])
    longest = -(-int(counts.max()) // multiple) * multiple
    padded = [F.pad(r, (0, 0, 0, longest - len(r)), value=float(r.min())) for r in rows]
    return torch.stack(padded), counts


def ctc_loss(logits: Tensor, counts: Tensor, words: Sequence[Tensor]) -> Tensor:
    """CTC negative log-likelihood (Graves et al. 2006) in nats a word.

    logits: [B, T, V]. counts: [B], frames that are not padding. A clip with fewer frames than words
    costs 0 instead of infinity.
    """
    lengths = torch.tensor([len(row) for row in words])
    log_probs = logits.transpose(0, 1).log_softmax(-1)
    total = F.ctc_loss(
        log_probs, torch.cat(list(words)), counts, lengths, reduction="sum", zero_infinity=True
    )
    return total / lengths.sum()


def greedy(logits: Tensor, counts: Tensor) -> list[list[int]]:
    """Greedy CTC decoding: the best symbols, repeats merged, blanks removed."""
    best = logits.argmax(-1)
    return [
        [s for s in torch.unique_consecutive(row[:count]).tolist() if s]
        for row, count in zip(best, counts.tolist(), strict=True)
    ]


def edit_distance(actual: Sequence[int], expected: Sequence[int]) -> int:
    """Levenshtein distance: substitutions, deletions and insertions."""
    costs = list(range(len(expected) + 1))
    for i, symbol in enumerate(actual, 1):
        diagonal, costs[0] = costs[0], i
        for j, other in enumerate(expected, 1):
            change = diagonal + (symbol != other)
            diagonal, costs[j] = costs[j], min(change, costs[j] + 1, costs[j - 1] + 1)
    return costs[-1]


def ctc_word_error_rate(
    clips: Sequence[Clip],
    predict: Callable[[Sequence[Clip]], tuple[Tensor, Tensor]],
    batch: int = 32,
) -> float:
    """Word errors over all words of the clips, by greedy decoding.

    predict: returns logits [B, T, V] and frame counts [B] of some clips.
    """
    ordered = sorted(clips, key=lambda clip: len(clip.rows))
    errors = total = 0
    for start in range(0, len(ordered), batch):
        some = ordered[start : start + batch]
        for symbols, clip in zip(greedy(*predict(some)), some, strict=True):
            errors += edit_distance(symbols, clip.words.tolist())
            total += len(clip.words)
    return errors / max(1, total)

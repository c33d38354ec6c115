"""Recorded speech for training: clips with their words, batches of like length, CTC and its errors.

Knows nothing of the models that hear: a clip's features are whatever function of its waveform the
caller gives. Words are the symbols because characters do not fit: a word of the small world lasts
0.17 s at least, two frames of 80 ms. Dimension key: B clips, F feature rows, D their width, T
places with logits, V symbols (0 is the blank).
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

POOL = 8  # batches drawn together and sorted by length, of which one is used


@dataclass(frozen=True)
class Words:
    """The words of the transcripts as CTC symbols: word i is symbol i + 1, the blank is 0."""

    known: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """All words of some texts, in alphabetical order."""
        return cls(tuple(sorted({word for text in texts for word in split(text)})))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        return cls(tuple(json.loads(path.read_text())))

    def save(self, path: Path) -> None:
        """Write the words as a JSON list."""
        files.write_text(path, json.dumps(self.known))

    @property
    def size(self) -> int:
        """Symbols, the blank included."""
        return len(self.known) + 1

    def encode(self, text: str) -> Tensor:
        """Symbols int64 [n] of a text; DataError for a word that is not known."""
        places = {word: i + 1 for i, word in enumerate(self.known)}
        strange = [word for word in split(text) if word not in places]
        if strange:
            raise DataError(
                f"the words {', '.join(strange)} of {text!r} are none of the {len(self.known)} "
                "known ones: build Words from all transcripts that are trained on"
            )
        return torch.tensor([places[word] for word in split(text)], dtype=torch.long)

    def decode(self, symbols: Iterable[int]) -> str:
        """The words of symbols above 0, joined by spaces."""
        return " ".join(self.known[symbol - 1] for symbol in symbols)


def split(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


@dataclass(frozen=True)
class Clip:
    """One recorded line: its features [F, D] and its words as symbols [n]."""

    line: Utterance
    rows: Tensor
    words: Tensor


def recordings(
    lines: Iterable[Utterance], folder: Path, *, split: str = "train"
) -> Iterator[tuple[Utterance, Waveform]]:
    """The lines of one split that are already spoken in `folder`, with their sound."""
    for line in lines:
        path = folder / f"{line.index:05d}.flac"
        if line.split == split and path.exists():
            yield line, Waveform.read(path)


def clips(
    recorded: Iterable[tuple[Utterance, Waveform]],
    words: Words,
    features: Callable[[Waveform], Tensor],
) -> list[Clip]:
    """Compute every clip's features [F, D] once; DataError when nothing is recorded."""
    made = [Clip(line, features(wave), words.encode(line.text)) for line, wave in recorded]
    if not made:
        raise DataError("no line of the plan is recorded: speak the bank first, or name its folder")
    return made


def draw(
    lengths: Tensor, batch: int, generator: torch.Generator, weights: Tensor | None = None
) -> list[int]:
    """Indices of clips of like length; over many draws each clip comes as often as it weighs.

    `lengths` [n], `weights` [n] (default: equal). Draws `POOL` batches with replacement, sorts them
    and takes one at random, so that little is padded and no length is preferred.
    """
    weights = torch.ones(len(lengths)) if weights is None else weights
    drawn = torch.multinomial(weights, POOL * batch, replacement=True, generator=generator)
    ordered = drawn[lengths[drawn].argsort(stable=True)]
    at = int(torch.randint(POOL, (), generator=generator))
    return ordered[at * batch : (at + 1) * batch].tolist()


def pad(rows: Sequence[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Features [F_i, D] as one [B, F, D], with their counts [B].

    F is a multiple of `multiple`. Padding repeats each clip's lowest value, which is its silence.
    """
    counts = torch.tensor([len(row) for row in rows])
    longest = -(-int(counts.max()) // multiple) * multiple
    padded = [F.pad(r, (0, 0, 0, longest - len(r)), value=float(r.min())) for r in rows]
    return torch.stack(padded), counts


def ctc_loss(logits: Tensor, counts: Tensor, words: Sequence[Tensor]) -> Tensor:
    """CTC's negative log-likelihood in nats a word; logits [B, T, V], counts [B] of real places.

    Graves et al. 2006. A clip with fewer places than words costs nothing instead of infinity.
    """
    lengths = torch.tensor([len(row) for row in words])
    log_probs = logits.transpose(0, 1).log_softmax(-1)
    total = F.ctc_loss(
        log_probs, torch.cat(list(words)), counts, lengths, reduction="sum", zero_infinity=True
    )
    return total / lengths.sum()


def greedy(logits: Tensor, counts: Tensor) -> list[list[int]]:
    """The best symbol of each place, repeats merged and blanks left out."""
    best = logits.argmax(-1)
    return [
        [s for s in torch.unique_consecutive(row[:count]).tolist() if s]
        for row, count in zip(best, counts.tolist(), strict=True)
    ]


def word_errors(heard: Sequence[int], said: Sequence[int]) -> int:
    """Levenshtein distance: substitutions, deletions and insertions from `said` to `heard`."""
    costs = list(range(len(said) + 1))
    for i, symbol in enumerate(heard, 1):
        diagonal, costs[0] = costs[0], i
        for j, wanted in enumerate(said, 1):
            change = diagonal + (symbol != wanted)
            diagonal, costs[j] = costs[j], min(change, costs[j] + 1, costs[j - 1] + 1)
    return costs[-1]


def word_error_rate(
    clips: Sequence[Clip],
    hear: Callable[[Sequence[Clip]], tuple[Tensor, Tensor]],
    batch: int = 32,
) -> float:
    """Errors a word over all clips, by greedy decoding.

    `hear` makes of some clips their logits [B, T, V] and counts [B].
    """
    ordered = sorted(clips, key=lambda clip: len(clip.rows))
    errors = spoken = 0
    for start in range(0, len(ordered), batch):
        some = ordered[start : start + batch]
        for heard, clip in zip(greedy(*hear(some)), some, strict=True):
            errors += word_errors(heard, clip.words.tolist())
            spoken += len(clip.words)
    return errors / max(1, spoken)

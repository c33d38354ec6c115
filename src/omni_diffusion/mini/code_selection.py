"""Speech codes of new sentences, joined from the codes of recorded ones by unit selection.

`unit_selection` joins waveforms at random, so that a model hears each word in many ways. What a
model is to say should be the same each time: every take of a word has other codes, and a model that
learns from all of them says a blend of them. So a phrase has one take here, and a text one sequence
of codes (Hunt and Black 1996, with clarity as the target cost). `audition` finds which of its takes
a listener understands best in new sentences.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median_high
from typing import NamedTuple

import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes
from omni_diffusion.mini.speech_plan import Utterance
from omni_diffusion.mini.unit_selection import load_by_word, save_by_word, split_words

CODES_A_SECOND = 25
TAKES = 4  # of a phrase, the cheapest ones
FINAL_TAKES = 2  # and those that ended a sentence: their last sound is complete
# Costs, in nats of clarity.
EDGE_NEXT, EDGE_PREVIOUS = 1.5, 1.0  # it ended or began the recording and now does not, or reverse
LENGTH = 0.05  # each code longer or shorter than the median take
CLEAR, UNCLEAR, UNHEARD = 0.1, 4.0, 1.0  # least and highest cost of a word; without a measurement

FIXED = (  # phrases of the world's sentences that are never cut
    "a picture of, i see, there is, there are, there is no, there are no, on a, on an,"
    " in flat style, is there, how many, are there, to the left of, to the right of,"
    " the background is, left of, right of, it is, what is, is a, is an"
).split(", ")
COUNTS = ("a", "an", "two", "three", "four", "one", "no", "the")
_NOUNS = {form + end for n in scenes.OBJECTS for form in (n, scenes.plural(n)) for end in ("", ",")}

Clarity = Mapping[int, Sequence[float]]
"""Log-probability of each word of a line, as a recognizer hears the decoded codes."""


@dataclass(frozen=True, eq=False)
class CutLine:
    """A recorded line: its words, the codes of each, and each word's clarity (or none measured)."""

    index: int
    words: tuple[str, ...]
    codes: tuple[Tensor, ...]
    clarity: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        line: Utterance,
        codes: Tensor,
        starts: Sequence[float],
        clarity: Sequence[float] = (),
    ) -> CutLine:
        """Cut the codes [n] of a line where its words start, in seconds.

        Raises DataError unless there is one start, and one clarity or none, for each word.
        """
        words = split_words(line.text)
        if len(words) != len(starts) or len(clarity) not in (0, len(words)):
            raise DataError(
                f"{len(starts)} cuts and {len(clarity)} measurements for the {len(words)} words of"
                f" {line.text!r}; align them again",
                value=len(starts),
            )
        inner = [min(round(s * CODES_A_SECOND), len(codes)) for s in starts[1:]]
        bounds = [0, *inner, len(codes)]
        parts = [codes[a:b] for a, b in itertools.pairwise(bounds)]
        return cls(line.index, tuple(words), tuple(parts), tuple(clarity))


class Phrase(NamedTuple):
    """Words that are never cut, and whether they begin or end their sentence."""

    words: tuple[str, ...]
    begins: bool
    ends: bool


@dataclass(frozen=True, eq=False)
class _Take:
    """A phrase in a recorded line: its codes and the cost of its words."""

    codes: Tensor
    unclear: float
    begins: bool
    ends: bool


class CodeSelector:
    """One sequence of speech codes for a text, from recorded lines of one voice.

    choices: which of its takes says a phrase; the first, where none is chosen.
    """

    def __init__(self, lines: Iterable[CutLine]) -> None:
        self.choices: dict[Phrase, int] = {}
        self._takes: dict[tuple[str, ...], list[_Take]] = defaultdict(list)
        for line in sorted(lines, key=lambda line: line.index):
            costs = [min(max(-c, CLEAR), UNCLEAR) for c in line.clarity]
            costs = costs or [UNHEARD] * len(line.words)
            start = 0
            for phrase in sentence_phrases(line.words):
                stop = start + len(phrase.words)
                take = _Take(
                    torch.cat(line.codes[start:stop]),
                    sum(costs[start:stop]),
                    phrase.begins,
                    phrase.ends,
                )
                self._takes[phrase.words].append(take)
                start = stop
        self.takes = lru_cache(maxsize=None)(self._cheapest)

    def codes(self, text: str) -> Tensor | None:
        """Codes [n] of `text`, or None if one of its phrases is not recorded."""
        parts = []
        for phrase in sentence_phrases(split_words(text)):
            takes = self.takes(phrase)
            if not takes:
                return None
            parts.append(takes[self.choices.get(phrase, 0)])
        return torch.cat(parts) if parts else None

    def _cheapest(self, phrase: Phrase) -> tuple[Tensor, ...]:
        """Codes of the takes that can say a phrase, the cheapest first; empty if unknown."""
        words = phrase.words
        if words not in self._takes:  # no take has a pause behind it
            words = (*words[:-1], words[-1].removesuffix(","))
        takes = self._takes.get(words, [])
        if not takes:
            return ()
        usual = median_high(len(take.codes) for take in takes)

        def cost(take: _Take) -> float:
            total = take.unclear + LENGTH * abs(len(take.codes) - usual)
            total += EDGE_NEXT * (take.ends != phrase.ends)
            return total + EDGE_PREVIOUS * (take.begins != phrase.begins)

        ordered = sorted(takes, key=cost)
        final = [take for take in ordered[TAKES:] if take.ends]
        return tuple(take.codes for take in (*ordered[:TAKES], *final[:FINAL_TAKES]))


def sentence_phrases(words: Sequence[str]) -> list[Phrase]:
    """The phrases of a sentence."""
    found, start = [], 0
    for size in phrases(words):
        stop = start + size
        found.append(Phrase(tuple(words[start:stop]), start == 0, stop == len(words)))
        start = stop
    return found


def phrases(words: Sequence[str]) -> list[int]:
    """Number of words of each phrase: sounds flow over from an article to its noun, for example."""
    sizes: list[int] = []
    at = 0
    while at < len(words):
        sizes.append(_phrase(words[at:]))
        at += sizes[-1]
    return sizes


def _phrase(words: Sequence[str]) -> int:
    """Number of words of the first phrase."""

    def starts(n: int, known: Iterable[str]) -> bool:
        return len(words) >= n and " ".join(words[:n]) in known

    for n in (4, 3, 2):
        if starts(n, FIXED):
            return n
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first in COUNTS:
        return next((n for n in (3, 2) if " ".join(words[1:n]) in _NOUNS and len(words) >= n), 1)
    background = first in scenes.BACKGROUNDS and second == "background"
    last = first == "on" and len(words) == 2 and second in scenes.BACKGROUNDS
    return 2 if background or last or starts(2, _NOUNS) else 1


def word_clarity(
    log_probs: Tensor, words: Tensor, starts: Sequence[float], seconds: float
) -> list[float]:
    """Highest log-probability of each word near its place.

    log_probs: [T, V] of a recognizer over a recording of that many seconds. words: symbols [n].
    starts: seconds at which the words start.
    """
    frames = len(log_probs)
    found = []
    for i, (word, start) in enumerate(zip(words.tolist(), starts, strict=True)):
        end = starts[i + 1] if i + 1 < len(starts) else seconds
        low = max(0, int((start - 0.12) / seconds * frames))
        high = min(frames, int((end + 0.2) / seconds * frames) + 2)
        found.append(float(log_probs[low:high, word].max()))
    return found


def save_clarity(clarity: Clarity, path: Path) -> None:
    """Write the clarity of each line as a JSON line."""
    save_by_word(clarity, path, digits=3)


def load_clarity(path: Path) -> dict[int, list[float]]:
    """Read what `save_clarity` wrote. Raises DataError for another file."""
    return load_by_word(path, "clarity", "delete it")

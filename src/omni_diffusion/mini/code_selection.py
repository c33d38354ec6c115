"""Speech codes of new sentences, joined from the codes of recorded ones by unit selection.

`unit_selection` joins waveforms at random, so that a model hears each word in many ways. What a
model is to say should be the same each time: every take of a word has other codes, and a model that
learns from all of them says a blend of them. So a text has one sequence of codes here: the phrases
that join best and that a recognizer hears best when they are decoded (Hunt and Black 1996, with
clarity as the target cost).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median_high

import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes
from omni_diffusion.mini.speech_plan import Utterance
from omni_diffusion.mini.unit_selection import EDGE, load_by_word, save_by_word, split_words

CODES_A_SECOND = 25
PHRASES = 4  # most phrases that one recording gives at once
# Costs, in nats of clarity.
JOIN = 1.0  # two pieces meet
OTHER_NEXT, OTHER_PREVIOUS = 0.4, 0.3  # the neighbour was another word in the recording
EDGE_NEXT, EDGE_PREVIOUS = 1.5, 1.0  # it ended or began the recording and now does not, or reverse
LENGTH = 0.05  # each code longer or shorter than the median take
NO_PAUSE = 0.5  # a comma is wanted and the take has none
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


@dataclass(frozen=True, eq=False)
class _Take:
    """Some phrases of a recorded line: codes, cost of the words, and the words beside them."""

    codes: Tensor
    unclear: float
    previous: str
    next: str


class CodeSelector:
    """One sequence of speech codes for a text, from recorded lines of one voice."""

    def __init__(self, lines: Iterable[CutLine]) -> None:
        self._takes: dict[tuple[str, ...], list[_Take]] = defaultdict(list)
        for line in sorted(lines, key=lambda line: line.index):
            words = (EDGE, *line.words, EDGE)
            costs = [min(max(-c, CLEAR), UNCLEAR) for c in line.clarity]
            costs = costs or [UNHEARD] * len(line.words)
            for start, stop in _runs(phrases(line.words)):
                codes = torch.cat(line.codes[start:stop])
                take = _Take(codes, sum(costs[start:stop]), words[start], words[stop + 1])
                self._takes[line.words[start:stop]].append(take)
        self._lengths = {w: median_high(len(t.codes) for t in ts) for w, ts in self._takes.items()}
        self._best = lru_cache(maxsize=None)(self._search)

    def codes(self, text: str) -> Tensor | None:
        """Codes [n] of `text`, or None if one of its words is not recorded."""
        words = tuple(split_words(text))
        whole = self._joined(words, phrases(words))
        return whole if whole is not None else self._joined(words, [1] * len(words))

    def _joined(self, words: tuple[str, ...], sizes: Sequence[int]) -> Tensor | None:
        """The cheapest sequence of takes for words that are cut into phrases of these sizes."""
        around = (EDGE, *words, EDGE)
        paths: dict[int, tuple[float, list[Tensor]]] = {0: (0.0, [])}
        for start, stop in _runs(sizes):  # in the order of their ends
            if start not in paths:
                continue
            found = self._best(words[start:stop], around[start], around[stop + 1])
            if found is None:
                continue
            cost, pieces = paths[start]
            if stop not in paths or cost + found[0] < paths[stop][0]:
                paths[stop] = cost + found[0], [*pieces, found[1]]
        return torch.cat(paths[len(words)][1]) if words and len(words) in paths else None

    def _search(
        self, words: tuple[str, ...], previous: str, following: str
    ) -> tuple[float, Tensor] | None:
        """The cheapest take of some words between two others, with its cost."""
        extra = 0.0
        if words not in self._takes and words[-1].endswith(","):
            words, extra = (*words[:-1], words[-1][:-1]), NO_PAUSE
        if words not in self._takes:
            return None

        def cost(take: _Take) -> float:
            total = JOIN + take.unclear + LENGTH * abs(len(take.codes) - self._lengths[words])
            total += OTHER_NEXT * (take.next != following)
            total += EDGE_NEXT * ((take.next == EDGE) != (following == EDGE))
            total += OTHER_PREVIOUS * (take.previous != previous)
            return total + EDGE_PREVIOUS * ((take.previous == EDGE) != (previous == EDGE))

        best = min(self._takes[words], key=cost)
        return cost(best) + extra, best.codes


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


def _runs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Word ranges of 1 to PHRASES phrases in a row, by their ends."""
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    ends = range(1, len(sizes) + 1)
    return [(bounds[i], bounds[k]) for k in ends for i in range(max(0, k - PHRASES), k)]


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

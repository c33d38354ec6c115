"""New sentences from recorded words: unit selection, the oldest way of speaking by machine.

A bank of a few thousand lines is learned by heart, line by line. Cut at its words and joined anew
(Hunt and Black 1996) the same recordings say any sentence of the world, each with words that were
heard in other company. Knows nothing of tokens or models.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.media import Waveform
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.speech_plan import Utterance

RATE = 16_000
SEEK = 0.05  # seconds around a measured cut in which the quietest moment is taken
WINDOW = 0.01  # seconds over which loudness is measured
FADE = 0.01  # seconds over which two pieces pass into one another
EDGE = "|"  # stands for the beginning and the end of a line, which are spoken in their own way
TRIES = 200

Cuts = Mapping[int, Sequence[float]]
"""By a line's index, the seconds at which each of its words begins."""


@dataclass(frozen=True, eq=False)
class Line:
    """A recorded line: its words between two edges, and the samples [n] of each word."""

    words: tuple[str, ...]
    sounds: tuple[Tensor, ...]

    @classmethod
    def of(cls, text: str, wave: Waveform, cuts: Sequence[float]) -> Self:
        """Cut a line where its words begin; the cuts move to the quietest moment nearby."""
        words = split(text)
        if len(words) != len(cuts):
            raise DataError(
                f"{len(cuts)} cuts for the {len(words)} words of {text!r}: measure them anew"
            )
        samples = wave.mono().resample(RATE).samples[0]
        inner = [_quietest(samples, second) for second in cuts[1:]]
        bounds = [0, *inner, len(samples)]
        pieces = [samples[a:b] for a, b in itertools.pairwise(bounds)]
        return cls((EDGE, *words, EDGE), tuple(pieces))

    def sound(self, start: int, stop: int) -> Tensor:
        """Samples of words start..stop-1, edges counted, which are silent."""
        first, last = max(start, 1) - 1, min(stop, len(self.words) - 1) - 1
        return torch.cat(self.sounds[first:last]) if last > first else torch.zeros(0)


class Splicer:
    """Says sentences in the voices of a bank, from its own words."""

    def __init__(self, lines: Iterable[tuple[Utterance, Waveform]], cuts: Cuts) -> None:
        self._places: dict[str, dict[str, list[tuple[Line, int]]]] = {}
        for utterance, wave in lines:
            if utterance.index not in cuts:
                raise DataError(f"line {utterance.index} has no cuts: measure them anew")
            line = Line.of(utterance.text, wave, cuts[utterance.index])
            places = self._places.setdefault(utterance.voice, {})
            for place, word in enumerate(line.words):
                places.setdefault(word, []).append((line, place))

    @property
    def voices(self) -> tuple[str, ...]:
        """Who can speak."""
        return tuple(self._places)

    def say(self, text: str, voice: str, rng: random.Random) -> Waveform | None:
        """`text` in `voice`, or None where the bank lacks one of its words.

        Pieces are as long as one that some line has, or shorter by chance, so that the same words
        are joined in many ways; two words at least, where two are found side by side.
        """
        wanted = (EDGE, *split(text), EDGE)
        places = self._places.get(voice, {})
        pieces: list[Tensor] = []
        at = 0
        while at < len(wanted):
            found = [
                (_match(line.words[place:], wanted[at:]), line, place)
                for line, place in places.get(wanted[at], ())
            ]
            if not found:
                return None
            longest = max(length for length, _, _ in found)
            length = max(rng.randint(min(2, longest), longest) for _ in range(2))
            _, line, place = rng.choice([f for f in found if f[0] >= length])
            pieces.append(line.sound(place, place + length))
            at += length
        return Waveform(_join([piece for piece in pieces if len(piece)])[None], RATE)


def plan(
    splicer: Splicer, first: int, *, captions: int, questions: int, said: int, seed: int = 0
) -> Iterable[tuple[Utterance, Waveform]]:
    """New training lines with their sound, numbered from `first`.

    `captions` of training scenes and `questions` in users' voices; `said` in the answer voice,
    two captions to one answer. Sentences that a voice lacks words for are passed over.
    """
    rng = random.Random(seed)
    every = {"question": speech_plan.questions(), "answer": speech_plan.answers()}
    kinds = [("caption", False)] * captions + [("question", False)] * questions
    kinds += [("answer" if i % 3 == 0 else "caption", True) for i in range(said)]
    users = [voice for voice in splicer.voices if voice != speech_plan.ANSWER_VOICE]
    for number, (role, own) in enumerate(kinds):
        for _ in range(TRIES):
            voice = speech_plan.ANSWER_VOICE if own else rng.choice(users)
            text = rng.choice(every.get(role) or scenes.captions(scenes.sample_scene(rng)))
            wave = splicer.say(text, voice, rng)
            if wave is not None:
                yield Utterance(first + number, role, "train", voice, text), wave
                break


def split(text: str) -> list[str]:
    """Words as they are spoken; a comma stays with its word, since a pause follows it."""
    return text.lower().rstrip("?.").split()


def save_cuts(cuts: Cuts, path: Path) -> None:
    """Write cuts as JSON lines."""
    rows = (json.dumps([index, *(round(s, 2) for s in cuts[index])]) for index in sorted(cuts))
    files.write_text(path, "".join(row + "\n" for row in rows))


def load_cuts(path: Path) -> dict[int, list[float]]:
    """What `save_cuts` wrote; raises DataError for anything else."""
    try:
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        return {int(index): [float(s) for s in seconds] for index, *seconds in rows}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no cuts ({error}); measure them anew") from error


def _match(have: Sequence[str], wanted: Sequence[str]) -> int:
    """How many words agree from the beginning."""
    count = 0
    for one, other in zip(have, wanted, strict=False):
        if one != other:
            break
        count += 1
    return count


def _quietest(samples: Tensor, second: float) -> int:
    """The sample of least energy within SEEK of `second`."""
    width, reach, at = int(WINDOW * RATE), int(SEEK * RATE), int(second * RATE)
    start, stop = max(0, at - reach), min(len(samples), at + reach)
    if stop - start <= width:
        return min(at, len(samples))
    energy = samples[start:stop].square().unfold(0, width, width // 2).mean(-1)
    return start + int(energy.argmin()) * (width // 2) + width // 2


def _join(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces one after the other, each fading into the next."""
    joined = pieces[0]
    for piece in pieces[1:]:
        n = min(int(FADE * RATE), len(joined), len(piece))
        rise = torch.linspace(0, 1, n)
        middle = joined[len(joined) - n :] * (1 - rise) + piece[:n] * rise
        joined = torch.cat([joined[: len(joined) - n], middle, piece[n:]])
    return joined

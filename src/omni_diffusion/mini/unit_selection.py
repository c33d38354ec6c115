"""New sentences spliced from recorded words by unit selection (Hunt and Black 1996).

A model memorizes a few thousand recordings. Cut at word boundaries and joined again, the same
recordings speak many more sentences, with each word in many contexts.
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
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.speech_plan import Utterance

SEEK = 0.05  # seconds around a measured cut that are searched for the quietest moment
WINDOW = 0.01  # seconds over which energy is measured
FADE = 0.01  # seconds of cross-fade between two pieces
EDGE = "|"  # marks the beginning and the end of a line, which sound different
TRIES = 200

Cuts = Mapping[int, Sequence[float]]
"""Seconds at which each word of a line begins, by the line's index."""


@dataclass(frozen=True, eq=False)
class RecordedLine:
    """A recorded line: its words between two EDGEs, and the samples [n] of each word."""

    words: tuple[str, ...]
    sounds: tuple[Tensor, ...]

    @classmethod
    def of(cls, text: str, wave: Waveform, cuts: Sequence[float]) -> Self:
        """Cut a recording at its words; each cut moves to the quietest moment nearby.

        Raises DataError unless there is one cut for each word.
        """
        words = split_words(text)
        if len(words) != len(cuts):
            raise DataError(
                f"{len(cuts)} cuts for the {len(words)} words of {text!r}; align them again",
                value=len(cuts),
            )
        samples = wave.mono().resample(SPEECH_RATE).samples[0]
        inner = [_quietest(samples, second) for second in cuts[1:]]
        bounds = [0, *inner, len(samples)]
        pieces = [samples[a:b] for a, b in itertools.pairwise(bounds)]
        return cls((EDGE, *words, EDGE), tuple(pieces))

    def sound(self, start: int, stop: int) -> Tensor:
        """Samples of words start..stop-1; an EDGE counts as a word and has no samples."""
        first, last = max(start, 1) - 1, min(stop, len(self.words) - 1) - 1
        return torch.cat(self.sounds[first:last]) if last > first else torch.zeros(0)


class UnitSelector:
    """Speaks sentences in recorded voices, from recorded words of the same voice."""

    def __init__(self, lines: Iterable[tuple[Utterance, Waveform]], cuts: Cuts) -> None:
        self._positions: dict[str, dict[str, list[tuple[RecordedLine, int]]]] = {}
        for utterance, wave in lines:
            if utterance.index not in cuts:
                raise DataError(
                    f"line {utterance.index} has no cuts; align the lines again",
                    value=utterance.index,
                )
            line = RecordedLine.of(utterance.text, wave, cuts[utterance.index])
            positions = self._positions.setdefault(utterance.voice, {})
            for position, word in enumerate(line.words):
                positions.setdefault(word, []).append((line, position))

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices."""
        return tuple(self._positions)

    def synthesize(self, text: str, voice: str, rng: random.Random) -> Waveform | None:
        """`text` in `voice`, or None if one of its words is not recorded.

        Piece lengths are drawn between 2 words and the longest match in any line, so that the same
        words are joined in many ways.
        """
        wanted = (EDGE, *split_words(text), EDGE)
        positions = self._positions.get(voice, {})
        pieces: list[Tensor] = []
        at = 0
        while at < len(wanted):
            found = [
                (_match(line.words[position:], wanted[at:]), line, position)
                for line, position in positions.get(wanted[at], ())
            ]
            if not found:
                return None
            longest = max(length for length, _, _ in found)
            length = max(rng.randint(min(2, longest), longest) for _ in range(2))
            _, line, position = rng.choice([f for f in found if f[0] >= length])
            pieces.append(line.sound(position, position + length))
            at += length
        return Waveform(_join([piece for piece in pieces if len(piece)])[None], SPEECH_RATE)


def plan_spliced(
    selector: UnitSelector, first: int, *, captions: int, questions: int, said: int, seed: int = 0
) -> Iterable[tuple[Utterance, Waveform]]:
    """New training lines with their recordings, numbered from `first`.

    captions, questions: numbers of lines in users' voices; half of the questions are drawn as they
    are asked about scenes, so that those that fit every scene are said in many ways. said: number
    of lines in the answer voice, two captions for each answer. Sentences with words that a voice
    lacks are skipped.
    """
    rng = random.Random(seed)
    every = {"question": speech_plan.questions(), "answer": speech_plan.answers()}
    lines = [("caption", False)] * captions + [("question", False)] * questions
    lines += [("answer" if i % 3 == 0 else "caption", True) for i in range(said)]
    users = [voice for voice in selector.voices if voice != speech_plan.ANSWER_VOICE]
    for number, (role, is_answer) in enumerate(lines):
        for _ in range(TRIES):
            voice = speech_plan.ANSWER_VOICE if is_answer else rng.choice(users)
            scene = scenes.sample_scene(rng)
            asked = [question.text for question in scenes.questions(scene, rng)]
            drawn = asked if role == "question" and number % 2 else every.get(role)
            text = rng.choice(drawn or scenes.captions(scene))
            wave = selector.synthesize(text, voice, rng)
            if wave is not None:
                yield Utterance(first + number, role, "train", voice, text), wave
                break


def split_words(text: str) -> list[str]:
    """Lower-case words; a comma stays with its word, because a pause follows it."""
    return text.lower().rstrip("?.").split()


def save_cuts(cuts: Cuts, path: Path) -> None:
    """Write cuts as JSON lines."""
    rows = (json.dumps([index, *(round(s, 2) for s in cuts[index])]) for index in sorted(cuts))
    files.write_text(path, "".join(row + "\n" for row in rows))


def load_cuts(path: Path) -> dict[int, list[float]]:
    """Read what `save_cuts` wrote. Raises DataError for another file."""
    try:
        rows = [json.loads(row) for row in files.text_lines(path)]
        return {int(index): [float(s) for s in seconds] for index, *seconds in rows}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} has no cuts ({error}); align the lines again", value=path
        ) from error


def _match(have: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the common prefix."""
    count = 0
    for one, other in zip(have, wanted, strict=False):
        if one != other:
            break
        count += 1
    return count


def _quietest(samples: Tensor, second: float) -> int:
    """The sample of least energy within SEEK of `second`."""
    width, reach, at = int(WINDOW * SPEECH_RATE), int(SEEK * SPEECH_RATE), int(second * SPEECH_RATE)
    start, stop = max(0, at - reach), min(len(samples), at + reach)
    if stop - start <= width:
        return min(at, len(samples))
    energy = samples[start:stop].square().unfold(0, width, width // 2).mean(-1)
    return start + int(energy.argmin()) * (width // 2) + width // 2


def _join(pieces: Sequence[Tensor]) -> Tensor:
    """Concatenate pieces with a cross-fade."""
    joined = pieces[0]
    for piece in pieces[1:]:
        n = min(int(FADE * SPEECH_RATE), len(joined), len(piece))
        rise = torch.linspace(0, 1, n)
        middle = joined[len(joined) - n :] * (1 - rise) + piece[:n] * rise
        joined = torch.cat([joined[: len(joined) - n], middle, piece[n:]])
    return joined

"""Which recorded take of a phrase a listener understands best in new sentences.

Each take is tried in sentences that are joined from takes, and the words that a judge misses count
against the takes that said them. Which one is tried next is drawn by Thompson sampling: clear takes
are heard often, unclear ones soon no more.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.evaluation.speech import GAP, WINDOW, Transcriber, missed_words
from omni_diffusion.io import files
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini import speech_plan
from omni_diffusion.mini.code_selection import CodeSelector, Phrase, sentence_phrases
from omni_diffusion.mini.unit_selection import split_words

PRIOR = (0.6, 0.9)  # of a take that was never heard: times misunderstood, times understood
LATER = 0.05  # added to the first for each cheaper take, so that the cheapest is tried first
RUNAWAY = 0.8  # share of missed words from which the judge's answer to a window says nothing


@dataclass
class _Tally:
    """Times that each take of a phrase was heard, and was missed."""

    heard: list[int]
    missed: list[int]

    def prior(self, i: int) -> tuple[float, float]:
        """Parameters of the Beta distribution of how often take `i` is missed."""
        missed, understood = PRIOR
        return missed + LATER * i + self.missed[i], understood + self.heard[i] - self.missed[i]

    def best(self) -> int:
        """The take that is missed least, by the mean."""

        def mean(i: int) -> float:
            missed, understood = self.prior(i)
            return missed / (missed + understood)

        return min(range(len(self.heard)), key=mean)

    def draw(self, rng: random.Random) -> int:
        """A take to try."""
        drawn = [rng.betavariate(*self.prior(i)) for i in range(len(self.heard))]
        return drawn.index(min(drawn))


@dataclass
class Audition:
    """The takes of `selector`, tried in windows of 30 s of speech; `windows` were heard."""

    selector: CodeSelector
    windows: int = 0
    tallies: dict[Phrase, _Tally] = field(default_factory=dict)

    def listen(self, decode: Callable[[Tensor], Waveform], judge: Transcriber, seed: int) -> float:
        """Let the judge hear one window of sentences, decoded from codes [n].

        Returns the share of words that it missed.
        """
        rng = random.Random(f"{seed}:{self.windows}")
        tried: list[tuple[Phrase, int]] = []
        sounds: list[Tensor] = []
        while True:
            said = self._try(speech_plan.sentence(rng), rng)
            if not said:
                continue
            codes = torch.cat([self.selector.takes(phrase)[take] for phrase, take in said])
            sound = decode(codes).mono().resample(SPEECH_RATE).samples[0]
            if sum(map(len, sounds)) + len(sound) + GAP > WINDOW:
                break
            sounds += [sound, torch.zeros(GAP)]
            tried += said
        heard = judge.transcribe(Waveform(torch.cat(sounds)[None], SPEECH_RATE))
        words = [word for phrase, _ in tried for word in phrase.words]
        missed = missed_words(words, heard)
        self.windows += 1
        rate = sum(missed) / len(missed)
        if rate < RUNAWAY:
            self._count(tried, missed)
        return rate

    def _try(self, text: str, rng: random.Random) -> list[tuple[Phrase, int]]:
        """The phrases of a text, each with a take to try; empty if one of them is not recorded."""
        said = []
        for phrase in sentence_phrases(split_words(text)):
            takes = len(self.selector.takes(phrase))
            if not takes:
                return []
            new = _Tally([0] * takes, [0] * takes)
            said.append((phrase, self.tallies.setdefault(phrase, new).draw(rng)))
        return said

    def _count(self, tried: Sequence[tuple[Phrase, int]], missed: Sequence[bool]) -> None:
        at = 0
        for phrase, take in tried:
            end = at + len(phrase.words)
            self.tallies[phrase].heard[take] += 1
            self.tallies[phrase].missed[take] += any(missed[at:end])
            at = end

    def choices(self) -> dict[Phrase, int]:
        """The best take of each phrase that was heard."""
        return {phrase: tally.best() for phrase, tally in self.tallies.items()}

    def save(self, path: Path) -> None:
        """Write the tallies as JSON lines, after a line with the number of windows."""
        rows = [
            [" ".join(phrase.words), phrase.begins, phrase.ends, tally.heard, tally.missed]
            for phrase, tally in sorted(self.tallies.items())
        ]
        files.write_text(path, "".join(f"{json.dumps(row)}\n" for row in [self.windows, *rows]))

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises DataError for another file or of other takes."""
        try:
            windows, *rows = (json.loads(row) for row in files.text_lines(path))
            tallies = {
                Phrase(tuple(words.split()), begins, ends): _Tally(heard, missed)
                for words, begins, ends, heard, missed in rows
            }
            fit = all(
                len(self.selector.takes(phrase)) == len(tally.heard) == len(tally.missed)
                for phrase, tally in tallies.items()
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} has no audition ({error}); delete it", value=path) from error
        if not fit:
            raise DataError(f"{path} is an audition of other recordings; delete it", value=path)
        self.windows, self.tallies = int(windows), tallies

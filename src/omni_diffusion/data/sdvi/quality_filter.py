"""Which takes are good enough: how long and loud a sound is, and whether its words are understood.

Knows no recogniser: one is handed in, as are the rules by which words are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from omni_diffusion.data.sdvi.utterances import Take
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.media import Waveform

Transcribe: TypeAlias = Callable[[Waveform], str]


@dataclass(frozen=True)
class Judge:
    """Who listens.

    name: what its judgements are kept under. open: makes what transcribes, one for each thread.
    errors: of a text and what was heard, how many words are wrong of how many; may raise OmniError
    for a text that it finds no words in.
    """

    name: str
    open: Callable[[], Transcribe]
    errors: Callable[[str, str], tuple[int, int]]


@dataclass(frozen=True)
class Flaw:
    """Why a take is not used: a reason that can be counted, and what it was in this take."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Gate:
    """What a take may be.

    most_errors: share of the text's words that may be wrong. min_seconds, max_seconds: of a sound;
    min_loudness: its root mean square, where full scale is 1.
    """

    most_errors: float = 0.2
    min_seconds: float = 0.2
    max_seconds: float = 60.0
    min_loudness: float = 0.001

    def __post_init__(self) -> None:
        if not self.most_errors >= 0:
            raise DataError(f"most_errors is {self.most_errors}; give a share such as 0.2")
        if not 0 < self.min_seconds < self.max_seconds:
            raise DataError(
                f"sounds of {self.min_seconds:g} to {self.max_seconds:g} s; give 0 < least < most"
            )

    def of_sound(self, take: Take) -> Flaw | None:
        """What is wrong with a sound, whatever its words."""
        if take.failed is not None:
            return Flaw("the synthesizer failed", take.failed)
        if take.seconds < self.min_seconds:
            return Flaw("too short", f"{take.seconds:.2f} s")
        if take.seconds > self.max_seconds:
            return Flaw("too long", f"{take.seconds:.2f} s")
        if take.loudness < self.min_loudness:
            return Flaw("silent", f"root mean square {take.loudness:.2g}")
        return None

    def of_words(self, take: Take) -> Flaw | None:
        """What is wrong with what was heard."""
        if not take.words:
            return Flaw("no words to compare", f"heard {take.heard!r}")
        if take.wrong > self.most_errors * take.words:
            told = f"{take.wrong} of {take.words} wrong, heard {take.heard!r}"
            return Flaw("misheard", told)
        return None


def listened(take: Take, text: str, wave: Waveform, judge: Judge, hear: Transcribe) -> Take:
    """A take with what a judge makes of it."""
    heard = hear(wave).strip()
    try:
        wrong, words = judge.errors(text, heard)
    except OmniError:
        wrong, words = 0, 0
    return replace(take, judge=judge.name, heard=heard, wrong=wrong, words=words)

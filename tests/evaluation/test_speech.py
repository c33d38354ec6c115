import sys

import pytest
import torch

from omni_diffusion.errors import EvaluationError, MissingDependencyError
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.scoring import Score, ratio
from omni_diffusion.media import Waveform
from omni_diffusion.mini.evaluate import BANK
from omni_diffusion.mini.recordings import Bank

scoring = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING_PACKAGES)), reason="needs extra eval"
)
hearing = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING_PACKAGES, *speech.WHISPER_PACKAGES)),
    reason="needs extra eval",
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
    assert speech.word_errors(said, heard) == Score(wrong, words)


def test_a_reference_without_words_is_refused() -> None:
    with pytest.raises(EvaluationError) as error:
        speech.word_errors(" ?!", "a dog")
    assert (error.value.field, error.value.value) == ("reference", " ?!")


def test_missing_packages_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in (*speech.SCORING_PACKAGES, *speech.WHISPER_PACKAGES):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"jiwer.*omni-diffusion\[eval\]") as error:
        speech.word_errors("a", "a")
    assert error.value.value == "jiwer"
    with pytest.raises(MissingDependencyError, match=r"faster_whisper.*\[eval\]"):
        speech.WhisperJudge.open()


@pytest.fixture(scope="module")
def whisper() -> speech.WhisperJudge:
    """Whisper base, read once."""
    return speech.WhisperJudge.open()


@pytest.mark.slow
@hearing
@pytest.mark.slow
def test_whisper_hears_what_the_bank_says_and_nothing_in_silence(
    whisper: speech.WhisperJudge,
) -> None:
    assert whisper.transcribe(Waveform(torch.zeros(1, 0), 16_000)) == ""
    said = Bank.open(BANK).sample("caption", 0, 3) + Bank.open(BANK).sample("answer", 0, 1)
    heard = [whisper.transcribe(recording.waveform) for recording in said]
    assert heard[0] == whisper.transcribe(said[0].waveform)
    scores = [speech.word_errors(r.text, h) for r, h in zip(said, heard, strict=True)]
    assert ratio(scores) < 0.15


@pytest.mark.slow
@hearing
@pytest.mark.slow
def test_whisper_finds_where_each_word_begins(whisper: speech.WhisperJudge) -> None:
    bank = Bank.open(BANK)
    said = bank.sample("answer", 2, 12)
    found = list(whisper.align([(r.waveform, r.text) for r in said]))
    for recording, starts in zip(said, found, strict=True):
        assert len(starts) == len(recording.text.split())
        assert starts == sorted(starts)
        assert starts[0] < 0.25
        assert starts[-1] < recording.waveform.seconds
    first, then = (recording.waveform for recording in said[:2])
    both = Waveform(torch.cat([first.samples, then.samples], 1), first.rate)
    (joined,) = whisper.align([(both, f"{said[0].text} {said[1].text}")])
    gap = joined[len(found[0])] - first.seconds
    assert abs(gap) < 0.3  # the second sentence begins where the first ends


@pytest.mark.slow
@hearing
def test_a_recording_longer_than_whispers_window_is_refused(whisper: speech.WhisperJudge) -> None:
    long = Waveform(torch.zeros(1, 31 * 16_000), 16_000)
    with pytest.raises(EvaluationError, match="31 s"):
        list(whisper.align([(long, "a dog")]))

"""Takes of phrases, tried in sentences: the clear ones are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.audition import Audition
from omni_diffusion.mini.code_selection import CodeSelector, CutLine
from omni_diffusion.mini.unit_selection import split_words

FRAMES = SPEECH_RATE // 4  # samples of a code here


class Book:
    """Hears samples that are numbers of codes: every code is a word, or mumbled."""

    version = "book"

    def __init__(self) -> None:
        self.words: list[str] = []
        self.clear: list[bool] = []

    def line(self, index: int, text: str, *, clear: bool) -> CutLine:
        words = tuple(split_words(text))
        first = len(self.words)
        self.words += [word.rstrip(",") for word in words]
        self.clear += [clear] * len(words)
        codes = tuple(torch.tensor([first + i]) for i in range(len(words)))
        return CutLine(index, words, codes)

    def decode(self, codes: Tensor) -> Waveform:
        return Waveform((codes.float() + 1).repeat_interleave(FRAMES)[None], SPEECH_RATE)

    def transcribe(self, waveform: Waveform) -> str:
        codes = [int(x) - 1 for x in waveform.samples[0][:: FRAMES // 10].tolist()]
        kept = [c for i, c in enumerate(codes) if c >= 0 and (i == 0 or codes[i - 1] != c)]
        return " ".join(self.words[c] if self.clear[c] else "mumble" for c in kept)


@pytest.fixture(scope="module")
def book() -> Book:
    return Book()


@pytest.fixture(scope="module")
def selector(book: Book) -> CodeSelector:
    """Sentences of the world, each mumbled first and then said clearly."""
    texts = [text for scene in scenes.every_scene()[::97] for text in scenes.captions(scene)]
    texts += speech_plan.answers()
    return CodeSelector(
        book.line(2 * i + clear, text, clear=bool(clear))
        for i, text in enumerate(texts)
        for clear in (0, 1)
    )


def test_clear_takes_are_chosen(book: Book, selector: CodeSelector) -> None:
    audition = Audition(selector)
    missed = [audition.listen(book.decode, book, 0) for _ in range(60)]
    assert sum(missed[-10:]) < 0.7 * sum(missed[:10])
    choices = audition.choices()
    often = [phrase for phrase, tally in audition.tallies.items() if sum(tally.heard) > 8]
    assert len(often) > 50
    for phrase in often:
        assert book.clear[int(selector.takes(phrase)[choices[phrase]][0])]


def test_audition_goes_on_where_it_stopped(
    book: Book, selector: CodeSelector, tmp_path: Path
) -> None:
    whole, first, second = (Audition(selector) for _ in range(3))
    for _ in range(4):
        whole.listen(book.decode, book, 1)
    for _ in range(2):
        first.listen(book.decode, book, 1)
    first.save(tmp_path / "audition.jsonl")
    second.load(tmp_path / "audition.jsonl")
    for _ in range(2):
        second.listen(book.decode, book, 1)
    assert second == whole


def test_window_that_the_judge_cannot_follow_is_not_counted(
    book: Book, selector: CodeSelector
) -> None:
    class Lost(Book):
        def transcribe(self, waveform: Waveform) -> str:
            return "thank you"

    audition = Audition(selector)
    assert audition.listen(book.decode, Lost(), 0) == 1
    assert audition.windows == 1
    assert not any(sum(tally.heard) for tally in audition.tallies.values())


def test_wrong_files_are_refused(book: Book, selector: CodeSelector, tmp_path: Path) -> None:
    path = tmp_path / "audition.jsonl"
    for text in ("", "3\n[1]\n", "no\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="has no audition"):
            Audition(selector).load(path)
    audition = Audition(selector)
    audition.listen(book.decode, book, 0)
    audition.save(path)
    with pytest.raises(DataError, match="other recordings"):
        Audition(CodeSelector([book.line(0, "a cat", clear=True)])).load(path)

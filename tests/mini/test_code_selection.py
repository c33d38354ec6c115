"""Codes of new sentences from recorded ones: one take for each phrase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni_diffusion.errors import DataError
from omni_diffusion.mini import code_selection
from omni_diffusion.mini.code_selection import CodeSelector, CutLine, Phrase, phrases
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance


def line(index: int, text: str, clarity: tuple[float, ...] = (), first: int = 0) -> CutLine:
    """A line whose every word has two codes of its own; `first` numbers them."""
    words = text.split()
    codes = torch.arange(first, first + 2 * len(words))
    utterance = Utterance(index, "caption", "train", ANSWER_VOICE, text)
    starts = [2 * i / code_selection.CODES_A_SECOND for i in range(len(words))]
    return CutLine.of(utterance, codes, starts, clarity)


def test_recorded_sentence_is_said_as_it_was_recorded() -> None:
    selector = CodeSelector([line(0, "a cat on a pink background"), line(1, "a dog", first=100)])
    found = selector.codes("A cat on a pink background.")
    assert found is not None
    assert found.tolist() == list(range(12))


def test_new_sentence_is_joined_from_phrases() -> None:
    lines = [
        line(0, "a cat on a pink background"),
        line(1, "a dog on a blue background", first=100),
    ]
    found = CodeSelector(lines).codes("a cat on a blue background")
    assert found is not None
    assert found.tolist() == [*range(4), *range(4, 8), *range(108, 112)]


def test_phrase_is_said_alike_in_every_sentence() -> None:
    lines = [
        line(0, "a cat on white", (-0.2, -0.2, -1.0, -1.0)),
        line(1, "a dog on white", (-1.0, -1.0, -0.2, -0.2), first=100),
        line(2, "two pigs on white", first=200),
    ]
    selector = CodeSelector(lines)
    for text, noun in (("a cat on white", 0), ("a dog on white", 100), ("two pigs on white", 200)):
        found = selector.codes(text)
        assert found is not None
        assert found.tolist() == [*range(noun, noun + 4), *range(104, 108)]


def test_takes_from_elsewhere_in_a_sentence_come_last() -> None:
    lines = [line(0, "it is a cat"), line(1, "a cat on white", first=100)]
    selector = CodeSelector(lines)
    begins, ends = (Phrase(("a", "cat"), first, not first) for first in (True, False))
    assert [take.tolist() for take in selector.takes(begins)] == [[*range(100, 104)], [4, 5, 6, 7]]
    assert [take.tolist() for take in selector.takes(ends)] == [[4, 5, 6, 7], [*range(100, 104)]]


def test_takes_that_ended_a_sentence_are_among_those_to_choose_from() -> None:
    inside = [line(i, "i see a cat on white", first=100 * i) for i in range(8)]
    final = [line(i, "i see a cat", first=100 * i) for i in range(8, 12)]
    takes = CodeSelector(inside + final).takes(Phrase(("a", "cat"), False, False))
    assert [int(take[0]) // 100 for take in takes] == [0, 1, 2, 3, 8, 9]


def test_choice_says_a_phrase() -> None:
    lines = [line(0, "a cat"), line(1, "a cat", first=100)]
    selector = CodeSelector(lines)
    selector.choices[Phrase(("a", "cat"), True, True)] = 1
    found = selector.codes("a cat")
    assert found is not None
    assert found.tolist() == [100, 101, 102, 103]


def test_clear_take_is_preferred() -> None:
    lines = [line(0, "a cat", (-3.0, -3.0)), line(1, "a cat", (-0.2, -0.2), first=100)]
    found = CodeSelector(lines).codes("a cat")
    assert found is not None
    assert found.tolist() == [100, 101, 102, 103]


def test_unknown_word_and_comma() -> None:
    selector = CodeSelector([line(0, "a cat on white")])
    assert selector.codes("a dog on white") is None
    assert selector.codes("") is None
    found = selector.codes("a cat, on white")  # no take has a pause there
    assert found is not None
    assert found.tolist() == list(range(8))


def test_phrases_keep_article_and_noun_together() -> None:
    words = "a picture of a cat to the left of two dogs on green".split()
    assert phrases(words) == [3, 2, 4, 2, 2]
    assert phrases("a cat, pink background".split()) == [2, 2]


def test_clarity_is_the_best_frame_near_a_word(tmp_path: Path) -> None:
    log_probs = torch.full((10, 4), -5.0)
    log_probs[1, 2], log_probs[7, 3], log_probs[9, 2] = -0.5, -0.25, -0.1
    found = code_selection.word_clarity(log_probs, torch.tensor([2, 3]), [0.0, 0.5], 1.0)
    assert found == [-0.5, -0.25]  # frame 9 is far from the first word
    code_selection.save_clarity({7: found, 3: [-1.0]}, tmp_path / "clarity.jsonl")
    assert code_selection.load_clarity(tmp_path / "clarity.jsonl") == {3: [-1.0], 7: found}


def test_wrong_cuts_and_files_are_refused(tmp_path: Path) -> None:
    utterance = Utterance(0, "caption", "train", ANSWER_VOICE, "a cat")
    with pytest.raises(DataError, match="3 cuts") as caught:
        CutLine.of(utterance, torch.arange(4), [0.0, 0.1, 0.2])
    assert caught.value.value == 3
    (tmp_path / "clarity.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="no clarity"):
        code_selection.load_clarity(tmp_path / "clarity.jsonl")

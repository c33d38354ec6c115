"""The card of sets that are empty, large, or named with Markdown characters."""

from __future__ import annotations

from pathlib import Path

from omni_diffusion.data.manifest import SourceLine
from omni_diffusion.data.sdvi.card import SdviRecord, SpokenSample, card
from omni_diffusion.data.sdvi.sources import WrittenSample
from omni_diffusion.data.sdvi.utterances import Take

RECORD = SdviRecord(None, "t2i.jsonl", "say a|b {out}", 40, "anna", 7, 2, "Whisper base", 0.2)


def samples(voices: int) -> list[SpokenSample]:
    line = WrittenSample(
        "s2i-c", SourceLine(Path("t2i.jsonl"), 1), "a boat", None, Path("boat.png")
    )
    return [SpokenSample(line, Take(str(i), 36.0), None, f"voice {i}") for i in range(voices)]


def test_cells_are_escaped() -> None:
    assert "| synthesizer | say a\\|b {out} |" in card(RECORD, samples(1), [], [], "")


def test_an_empty_set() -> None:
    text = card(RECORD, [], [], [], "")
    assert "| samples | 0 |" in text
    assert "0 of 0 words of the good takes are wrong.\n" in text
    assert text.count("None.") == 2  # nothing left out, no voice


def test_many_voices_are_summed_up() -> None:
    text = card(RECORD, samples(40), [], [], "")
    assert "40 voices, with 1 to 1 samples each" in text
    assert "| hours of questions and descriptions | 0.400 |" in text
    assert "| voices of users | 40 used of 40 |" in text


def test_word_errors_of_good_takes_and_others() -> None:
    checked = [(Take("a", wrong=0, words=4), True), (Take("b", wrong=1, words=8), True)]
    checked.append((Take("c", wrong=3, words=4), False))
    text = card(RECORD, samples(2), [], checked, "")
    for line in ("| below 1 | 1 | 0 |", "| 10 to 20 | 1 | 0 |", "| 50 to 100 | 0 | 1 |"):
        assert line in text
    assert "1 of 12 words of the good takes are wrong, 8.33%." in text

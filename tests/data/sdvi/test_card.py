"""The card of sets that are empty, large, or named with signs of Markdown."""

from pathlib import Path

from omni_diffusion.data.manifest import Place
from omni_diffusion.data.sdvi.build import Record, Spoken
from omni_diffusion.data.sdvi.card import card
from omni_diffusion.data.sdvi.sources import Line
from omni_diffusion.data.sdvi.utterances import Take

RECORD = Record(None, "t2i.jsonl", "say a|b {out}", 40, "anna", 7, 2, "Whisper base", 0.2)


def whole(voices: int) -> list[Spoken]:
    line = Line("s2i-c", Place(Path("t2i.jsonl"), 1), "a boat", None, Path("boat.png"))
    return [Spoken(line, Take(str(i), 36.0), None, f"voice {i}") for i in range(voices)]


def test_a_cell_is_not_ended_by_what_is_in_it() -> None:
    assert "| synthesizer | say a\\|b {out} |" in card(RECORD, whole(1), [], [], "")


def test_nothing_made() -> None:
    told = card(RECORD, [], [], [], "")
    assert "| lines | 0 |" in told
    assert "0 of 0 words of the good takes are wrong.\n" in told
    assert told.count("None.") == 2  # nothing left out, no voice


def test_many_voices_are_summed_up() -> None:
    told = card(RECORD, whole(40), [], [], "")
    assert "40 voices ask, in 1 to 1 lines each" in told
    assert "| hours heard (what users say) | 0.400 |" in told
    assert "| voices of users | 40 used of 40 |" in told


def test_word_errors_of_good_takes_and_others() -> None:
    heard = [(Take("a", wrong=0, words=4), True), (Take("b", wrong=1, words=8), True)]
    heard.append((Take("c", wrong=3, words=4), False))
    told = card(RECORD, whole(2), [], heard, "")
    for line in ("| below 1 | 1 | 0 |", "| 10 to 20 | 1 | 0 |", "| 50 to 100 | 0 | 1 |"):
        assert line in told
    assert "1 of 12 words of the good takes are wrong, 8.33%." in told

"""Long texts in passages: nothing lost, nothing moved, cut where a reader would breathe."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_diffusion.conversation import Message, Text
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.media import Waveform
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import task
from omni_diffusion.tasks.chunking import joined, passages, spoken_passages
from omni_diffusion.tasks.render import render

ALPHABET = "ab .,;!?\n\t'\"—。，é"


@settings(max_examples=200, deadline=None)
@given(st.text(ALPHABET, max_size=120).filter(str.strip), st.integers(1, 30))
def test_every_character_is_kept_in_order_and_every_passage_fits(text: str, most: int) -> None:
    found = passages(text, lambda passage: len(passage) <= most)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(0 < len(passage) <= most for passage in found)
    assert all(passage == passage.strip() for passage in found)


@settings(max_examples=200, deadline=None)
@given(st.text(ALPHABET.replace("。", "").replace("，", "").replace("—", ""), max_size=120)
       .filter(str.strip), st.integers(1, 8))  # fmt: skip
def test_no_word_is_cut_where_one_fits(text: str, most: int) -> None:
    found = passages(text, lambda passage: len(passage.split()) <= most)
    assert " ".join(found).split() == text.split()


def test_cuts_at_sentences_then_clauses_then_words_then_characters() -> None:
    def cut(text: str, most: int) -> tuple[str, ...]:
        return passages(text, lambda passage: len(passage) <= most)

    assert cut("One two. Three! Four?", 100) == ("One two. Three! Four?",)
    assert cut("One two. Three! Four?", 15) == ("One two. Three!", "Four?")
    assert cut('He said "no." Then 3.14 came.', 18) == ('He said "no."', "Then 3.14 came.")
    assert cut("first part, second part", 15) == ("first part,", "second part")
    assert cut("one two three", 8) == ("one two", "three")
    assert cut("abcdefgh", 3) == ("abc", "def", "gh")
    assert cut("你好。再见，朋友。", 4) == ("你好。", "再见，", "朋友。")
    assert cut("a title\nits text", 10) == ("a title", "its text")


def test_what_cannot_be_cut_is_told() -> None:
    for text in ("", " \n"):
        with pytest.raises(TaskError, match="the text is empty"):
            passages(text, lambda _: True)
    with pytest.raises(TaskError, match="not even 'a' fits"):
        passages("a b", lambda _: False)


def test_three_hundred_words_fit_canvas_by_canvas(model: OmniModel) -> None:
    text = " ".join(f"Dog {n} sees a red tree, and tree {n} sees a dog." for n in range(25))
    assert len(text.split()) == 300
    with pytest.raises(TaskError, match="shorten it"):
        render(task("tts"), (Message("user", (Text(text),)),), model)
    for most in (None, 200):
        found = spoken_passages(text, model, max_positions=most)
        assert " ".join(found) == text
        assert all(passage.endswith(".") for passage in found)
        for passage in found:
            canvas = render(task("tts"), (Message("user", (Text(passage),)),), model).canvas
            assert canvas.length <= (most or model.max_positions)


def test_sounds_are_joined_with_a_pause() -> None:
    one, two = (Waveform(torch.full((1, n), float(n)), 100) for n in (3, 5))
    whole = joined([one, two, one], pause=0.02)
    assert whole.rate == 100
    assert whole.samples[0].tolist() == [3.0] * 3 + [0.0] * 2 + [5.0] * 5 + [0.0] * 2 + [3.0] * 3
    assert torch.equal(joined([two]).samples, two.samples)


def test_sounds_that_do_not_join() -> None:
    one = Waveform(torch.zeros(1, 4), 100)
    with pytest.raises(MediaError, match="no waveforms"):
        joined([])
    with pytest.raises(MediaError, match="1 channels at 200 Hz, the first 1 at 100 Hz"):
        joined([one, Waveform(torch.zeros(1, 4), 200)])
    with pytest.raises(MediaError, match="2 channels"):
        joined([one, Waveform(torch.zeros(2, 4), 100)])
    with pytest.raises(MediaError, match="the pause is -1"):
        joined([one], pause=-1)

"""Holes, gaps and cloze texts: what becomes blank, and what is put back."""

import pytest
import torch
from tests.tiny import checkers, tone

from omni_diffusion.codecs.magvit2 import picture_of
from omni_diffusion.conversation import Blank, Partial, PartialImage, PartialSpeech, Text
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.infill import (
    box,
    cloze,
    composite,
    inpainting,
    partial_picture,
    partial_speech,
)


def _grid(partial: Partial) -> list[str]:
    return ["".join(".#"[int(cell)] for cell in row) for row in partial.blank.view(4, 4).tolist()]


def test_a_cell_that_the_hole_touches_is_blank(model: OmniModel) -> None:
    picture = checkers(8)
    part = PartialImage(picture, box(picture, 1, 2, 3, 5))
    partial = partial_picture(part, model.codecs.image)
    assert _grid(partial) == ["....", "##..", "##..", "...."]
    assert torch.equal(partial.ids, model.codecs.image.encode(picture))
    assert partial.source is part


def test_the_hole_goes_through_the_pictures_crop(model: OmniModel) -> None:
    wide = Picture(checkers(40).pixels[:20])  # 40 x 20: the middle 20 x 20 is what the codec sees
    inside = partial_picture(PartialImage(wide, box(wide, 12, 1, 13, 2)), model.codecs.image)
    assert _grid(inside)[0][0] == "#"
    assert _grid(inside)[2:] == ["....", "...."]
    with pytest.raises(TaskError, match="touches nothing of the picture's centre square"):
        partial_picture(PartialImage(wide, box(wide, 0, 0, 4, 20)), model.codecs.image)


def test_given_pixels_come_back_exactly() -> None:
    picture = checkers(8)
    hole = box(picture, 1, 2, 4, 5)
    made = picture_of(torch.zeros(3, 8, 8))
    joined = composite(made, PartialImage(picture, hole))
    assert torch.equal(joined.pixels[~hole], picture.pixels[~hole])
    assert torch.equal(joined.pixels[hole], made.pixels[hole])


def test_another_size_is_brought_to_the_made_ones() -> None:
    picture = Picture(torch.full((32, 24, 3), 77, dtype=torch.uint8))
    joined = composite(checkers(8), PartialImage(picture, box(picture, 0, 0, 1, 5)))
    assert joined.pixels.shape == (8, 8, 3)
    assert int((joined.pixels == 77).all(-1).sum()) > 50


@pytest.mark.parametrize("edges", [(-1, 0, 2, 2), (0, 0, 9, 2), (3, 0, 3, 2), (0, 5, 2, 4)])
def test_boxes_outside_of_the_picture(edges: tuple[int, int, int, int]) -> None:
    with pytest.raises(TaskError, match="does not lie in the picture of 8 x 8"):
        box(checkers(8), *edges)


def test_a_hole_of_another_size() -> None:
    with pytest.raises(TaskError, match=r"give bool \(8, 8\)"):
        PartialImage(checkers(8), torch.zeros(4, 4, dtype=torch.bool))


def test_inpainting_with_and_without_words() -> None:
    picture = checkers(8)
    hole = box(picture, 0, 0, 2, 2)
    asked, answer = inpainting(picture, hole, "a dog")
    assert asked.parts == (Text("a dog"),)
    assert isinstance(answer.parts[0], PartialImage)
    assert inpainting(picture, hole)[0].parts == ()


@pytest.mark.parametrize(
    ("gaps", "blank"),
    [
        (((0.0, 0.08),), "#......"),
        (((0.08, 0.09),), ".#....."),
        (((0.1, 0.2), (0.5, 0.56)), ".##...#"),
        (((0.0, 0.56),), "#######"),
    ],
)
def test_a_code_that_a_gap_touches_is_blank(
    gaps: tuple[tuple[float, float], ...], blank: str, model: OmniModel
) -> None:
    partial = partial_speech(PartialSpeech(tone(0.56), gaps), model.codecs.speech)
    assert "".join(".#"[int(code)] for code in partial.blank.tolist()) == blank
    assert torch.equal(partial.ids, model.codecs.speech.encode(tone(0.56)))


@pytest.mark.parametrize("gaps", [(), ((0.4, 0.3),), ((0.0, 3.0),), ((-0.1, 0.1),)])
def test_gaps_outside_of_the_sound(gaps: tuple[tuple[float, float], ...], model: OmniModel) -> None:
    with pytest.raises(TaskError, match="gap"):
        partial_speech(PartialSpeech(tone(0.5), gaps), model.codecs.speech)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a __ on a table", (Text("a"), Blank("text", 2), Text(" on a table"))),
        ("___", (Blank("text", 3),)),
        ("a dog _.", (Text("a dog"), Blank("text", 1), Text("."))),
        ("no gap", (Text("no gap"),)),
        ("", ()),
    ],
)
def test_cloze(text: str, pieces: tuple[Text | Blank, ...]) -> None:
    assert cloze(text) == pieces


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(TaskError, match="a blank of 0 text tokens"):
        Blank("text", 0)
    with pytest.raises(TaskError, match="give one bool for each id"):
        Partial("image", torch.arange(4), torch.ones(3, dtype=torch.bool))

"""Holes, gaps and cloze texts: what becomes blank, and what is put back."""

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.tiny import checkers, tone

from omni_diffusion.codecs.magvit2 import picture_of
from omni_diffusion.conversation import Blank, Partial, PartialImage, PartialSpeech, Text
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.infill import (
    DrawnMask,
    box,
    cloze,
    composite,
    composite_note,
    drawn_hole,
    inpainting,
    painted_window,
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


@pytest.mark.parametrize(
    ("edges", "seen"),
    [
        ((12, 1, 13, 2), (2, 20)),  # the square around the hole, 20 pixels from column 2 on
        ((0, 0, 4, 20), (0, 20)),
        ((36, 5, 40, 9), (20, 20)),
        ((0, 0, 21, 4), (0, 40)),  # wider than a square of the short side: all of it, padded
    ],
)
def test_the_model_sees_the_square_around_the_hole(
    edges: tuple[int, int, int, int], seen: tuple[int, int], model: OmniModel
) -> None:
    wide = Picture(checkers(40).pixels[:20])
    part = PartialImage(wide, box(wide, *edges))
    window = painted_window(part, 8)
    assert (window.left, window.right - window.left) == seen
    assert (window.top, window.bottom) == (0, 20)
    grid = partial_picture(part, model.codecs.image).blank.view(4, 4)
    assert bool(grid.any())
    if seen[1] == 20:
        cut = Picture(wide.pixels[:, seen[0] : seen[0] + 20].contiguous())
        assert torch.equal(window.seen(wide).pixels, cut.pixels)
    else:
        assert not bool(grid[2:].any())  # the padding below


def test_every_pixel_that_the_hole_touches_is_painted(model: OmniModel) -> None:
    big = Picture(torch.randint(0, 256, (400, 400, 3), dtype=torch.uint8))
    hole = box(big, 399, 0, 400, 1)  # one pixel of a cell of 100 x 100
    partial = partial_picture(PartialImage(big, hole), model.codecs.image)
    assert _grid(partial) == ["...#", "....", "....", "...."]
    with pytest.raises(TaskError, match="the hole is empty"):
        partial_picture(PartialImage(big, torch.zeros_like(hole)), model.codecs.image)


def test_given_pixels_come_back_exactly() -> None:
    picture = checkers(8)
    hole = box(picture, 1, 2, 4, 5)
    made = picture_of(torch.zeros(3, 8, 8))
    joined = composite(made, PartialImage(picture, hole))
    assert torch.equal(joined.pixels[~hole], picture.pixels[~hole])
    assert torch.equal(joined.pixels[hole], made.pixels[hole])


@pytest.mark.parametrize(
    "size", [(32, 24), (24, 32), (8, 8), (5, 7), (64, 64), (128, 128), (90, 3)]
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_picture_keeps_its_size_and_every_pixel_outside_of_the_hole(
    size: tuple[int, int], share: float
) -> None:
    height, width = size
    picture = Picture(torch.randint(0, 256, (*size, 3), dtype=torch.uint8))
    hole = box(picture, 0, 0, max(1, int(width * share)), max(1, int(height * share)))
    made = Picture(torch.tensor([9, 250, 40], dtype=torch.uint8).expand(8, 8, 3).contiguous())
    joined = composite(made, PartialImage(picture, hole))
    assert (joined.height, joined.width) == size
    assert torch.equal(joined.pixels[~hole], picture.pixels[~hole])
    assert bool((joined.pixels[hole] == torch.tensor([9, 250, 40])).all())


def test_what_is_painted_lies_where_the_hole_is() -> None:
    made = Picture(checkers(8).pixels)
    picture = Picture(torch.zeros(16, 40, 3, dtype=torch.uint8))
    hole = box(picture, 4, 0, 20, 16)  # the square around it is the hole itself
    joined = composite(made, PartialImage(picture, hole))
    wanted = made.to_pil().resize((16, 16), PIL.Image.Resampling.BICUBIC)
    assert torch.equal(joined.pixels[:, 4:20], Picture.from_pil(wanted).pixels)


def test_a_note_tells_the_size_that_was_painted() -> None:
    square = PartialImage(checkers(8), box(checkers(8), 0, 0, 2, 2))
    assert composite_note(square, 8) is None
    wide = Picture(checkers(40).pixels[:20])
    note = composite_note(PartialImage(wide, box(wide, 0, 0, 4, 4)), 8)
    assert note is not None
    assert note.startswith("the hole was painted at 8 x 8, for 20 x 20 of the picture's 40 x 20;")


HALF = [[0.0, 0.01, 0.49], [0.5, 0.9, 1.0]]
HOLE = [[False, False, False], [True, True, True]]


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor(HALF),
        torch.tensor(HALF, dtype=torch.float64)[None],
        torch.tensor(HALF, dtype=torch.bfloat16)[None, None],
        np.array(HALF)[..., None],
        (np.array(HALF) * 255 + 0.5).astype(np.uint8),
        (torch.tensor(HALF) * 255 + 0.5).to(torch.int32),
        torch.tensor(HOLE),
        torch.tensor(HOLE).int(),
        PIL.Image.fromarray((np.array(HALF) * 255 + 0.5).astype(np.uint8)),
        PIL.Image.fromarray((np.array(HALF) * 65_407 + 128).astype(np.uint16)),
        PIL.Image.fromarray(np.array(HALF, dtype=np.float32) + 0.002),
    ],
)
def test_one_threshold_for_masks_of_every_type(mask: DrawnMask) -> None:
    assert drawn_hole(mask).tolist() == HOLE


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
def test_one_threshold_for_masks_in_files(tmp_path: Path, suffix: str) -> None:
    grey = PIL.Image.fromarray((np.array(HALF) * 255 + 0.5).astype(np.uint8))
    grey.save(tmp_path / f"mask{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    assert drawn_hole(tmp_path / f"mask{suffix}").tolist() == HOLE


def layered(color: tuple[int, int, int], behind: tuple[int, int, int]) -> PIL.Image.Image:
    """One opaque pixel of a color before transparent ones of another."""
    image = PIL.Image.new("RGBA", (2, 1), (*behind, 0))
    image.putpixel((1, 0), (*color, 255))
    return image


def test_a_hole_in_alpha_is_the_white_paint_or_refused() -> None:
    for behind in ((0, 0, 0), (255, 255, 255), (9, 200, 90)):
        assert drawn_hole(layered((255, 255, 255), behind)).tolist() == [[False, True]]
    for color in ((0, 0, 0), (90, 20, 30)):  # does the user mean the transparent part?
        with pytest.raises(MediaError, match="transparent parts") as error:
            drawn_hole(layered(color, (255, 255, 255)))
        assert error.value.field == "mask"
    grey = PIL.Image.new("LA", (2, 1), (255, 0))
    grey.putpixel((1, 0), (255, 255))
    assert drawn_hole(grey).tolist() == [[False, True]]
    opaque = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    opaque.putpixel((0, 0), (255, 255, 255, 255))
    assert drawn_hole(opaque).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.zeros(2, 3), "no white part"),
        (np.full((2, 3), 100, dtype=np.uint8), "no white part"),
        (torch.full((2, 3), 7.0), "from 7 to 7"),
        (torch.tensor([[math.nan, 1.0]]), "from nan to nan"),
        (torch.tensor([[-1, 1]]), "from -1 to 1"),
        (np.array([[0, 300]]), "from 0 to 300"),
        (torch.zeros(3, 2, 4), r"shape \(3, 2, 4\)"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex"),
    ],
)
def test_masks_that_tell_no_hole(mask: DrawnMask, told: str) -> None:
    with pytest.raises(TaskError, match=told) as error:
        drawn_hole(mask)
    assert error.value.field == "mask"


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

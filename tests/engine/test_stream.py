"""What is sure: only what can never change any more, and all of that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.tiny_scenes import CONVERSATIONS, filled

from omni_diffusion.canvas import Canvas
from omni_diffusion.engine import stream
from omni_diffusion.engine.stream import CommittedSpan
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.layout import SegmentSpan
from omni_diffusion.tasks.render import Prepared, render
from omni_diffusion.vocab import Vocabulary

WORDS = Vocabulary(text_size=300, speech_size=20, image_size=20)


def canvas_of(ids: list[int]) -> Canvas:
    row = torch.tensor(ids)
    allowed = torch.tensor([[0, WORDS.size]]).expand(len(ids), 2)
    return Canvas(row, row == WORDS.mask, allowed, (0, len(ids)))


def committed_span(kind: str, *ids: int) -> tuple[list[int], bool]:
    section = SegmentSpan(kind, 0, len(ids))  # type: ignore[arg-type]
    found = stream.committed_span(canvas_of(list(ids)), section, WORDS)
    return found.codes.tolist(), found.whole


def test_text_is_sure_up_to_the_first_blank() -> None:
    blank, end = WORDS.mask, WORDS.im_end
    assert committed_span("text", 5, 6, blank, 7, end) == ([5, 6], False)
    assert committed_span("text", blank, 6) == ([], False)
    assert committed_span("text", 5, 6, 7) == ([5, 6, 7], True)
    assert committed_span("text", 5, end, blank, blank) == (
        [5],
        True,
    )  # what comes after is not read


def test_speech_is_sure_up_to_the_first_blank() -> None:
    a, blank = WORDS.speech.start, WORDS.mask
    assert committed_span("speech", a + 3, a, blank, a) == ([3, 0], False)
    assert committed_span("speech", a + 3, WORDS.end_of_audio, blank) == ([3], True)


def test_a_picture_is_sure_cell_by_cell() -> None:
    a, blank = WORDS.image.start, WORDS.mask
    assert committed_span("image", a + 3, blank, a, blank) == ([3, -1, 0, -1], False)
    assert committed_span("image", a + 3, a, a, 5) == ([3, 0, 0, -1], True)  # 5 is no picture code


@pytest.mark.slow
@given(st.permutations(range(12)), st.integers(0, 2**32))
def test_what_is_sure_only_grows(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for kind, span in (("text", WORDS.text), ("speech", WORDS.speech)):
        ids = torch.randint(span.start, span.stop, (12,), generator=generator)
        ids[9:] = torch.tensor([WORDS.im_end, WORDS.pad, WORDS.pad])
        canvas, before = canvas_of([WORDS.mask] * 12), torch.empty(0)
        for place in order:
            canvas = canvas.fill([place], [int(ids[place])])
            found = stream.committed_span(canvas, SegmentSpan(kind, 0, 12), WORDS)  # type: ignore[arg-type]
            assert torch.equal(found.codes[: len(before)], before)
            before = found.codes
        assert found.whole
        assert span.lift(found.codes).tolist() == ids[:9].tolist()


@pytest.fixture
def picture(model: OmniModel) -> Prepared:
    return render(CATALOG["t2i"], CONVERSATIONS["t2i"], model)


def test_look_at_a_whole_answer(model: OmniModel) -> None:
    begun = render(CATALOG["svqa"], CONVERSATIONS["svqa"], model, max_tokens=16)
    look = stream.partial_result(begun.canvas, begun.canvas.blanks, begun.spans, model.vocabulary)
    assert [(each.kind, len(each.codes), each.whole) for each in look.spans] == [
        ("text", 0, False),
        ("speech", 0, False),
    ]
    assert look.progress == 0
    done = stream.partial_result(
        filled(begun.canvas), begun.canvas.blanks, begun.spans, model.vocabulary
    )
    assert done.progress == 1
    assert all(each.whole for each in done.spans)
    assert stream.progress_of(filled(begun.canvas), 0) == 1


def test_half_a_character_is_held_back(model: OmniModel) -> None:
    codes = model.codecs.text.encode("né")
    cut = CommittedSpan("text", codes[:-1], whole=False)
    assert len(codes) == 3
    assert stream.committed_text(cut, model.codecs.text) == "n"
    assert stream.committed_text(replace(cut, codes=codes), model.codecs.text) == "né"
    assert stream.committed_text(replace(cut, whole=True), model.codecs.text) == "n\ufffd"


def test_preview_shows_sure_cells_and_greys_the_rest(picture: Prepared, model: OmniModel) -> None:
    codec, section = model.codecs.image, picture.spans[0]
    whole = stream.committed_span(filled(picture.canvas), section, model.vocabulary)
    shown = stream.preview(whole, codec)
    assert shown is not None
    assert torch.equal(shown.pixels, codec.decode(whole.codes).pixels)
    codes = torch.full_like(whole.codes, -1)
    assert stream.preview(CommittedSpan("image", codes, False), codec) is None
    codes[5] = 3  # second row, second column of 4 x 4 cells of 2 pixels
    part = stream.preview(CommittedSpan("image", codes, False), codec)
    assert part is not None
    grey = (part.pixels == stream.GREY).all(-1)
    assert bool(grey[:2].all())
    assert bool(grey[:, :2].all())
    assert bool(grey[4:].all())
    flat = codec.decode(torch.full((16,), 3)).pixels  # open cells count as their neighbour
    assert torch.equal(part.pixels[2:4, 2:4], flat[2:4, 2:4])
    assert stream.preview(CommittedSpan("image", codes[:15], False), codec) is None  # no square

"""What is already sure of an answer that is still being denoised.

Pure functions of the canvas: a token that was committed never changes, so whatever stands before
the first blank of a run can be shown, spoken or sent. Knows no request and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.base import TokenCodec
from omni_diffusion.media import Picture
from omni_diffusion.tasks.layout import Section
from omni_diffusion.tasks.parts import Kind
from omni_diffusion.vocab import Span, Vocabulary

GREY = 128
NO_CHARACTER = "\ufffd"


@dataclass(frozen=True, eq=False)
class Settled:
    """What is sure of one run of the answer.

    codes: local ids int64 [n]; text and speech up to the first blank, a picture cell by cell with
    -1 where nothing is sure yet. whole: nothing more will come.
    """

    kind: Kind
    codes: Tensor
    whole: bool


@dataclass(frozen=True, eq=False)
class Look:
    """How far an answer is: the share of its blanks that are filled, and what is sure of it."""

    share: float
    settled: tuple[Settled, ...]


def look(canvas: Canvas, blanks: int, sections: Sequence[Section], vocabulary: Vocabulary) -> Look:
    """What is sure on a canvas that began with so many blanks, run by run, in order."""
    runs = tuple(settle(canvas, section, vocabulary) for section in sections)
    return Look(share(canvas, blanks), runs)


def share(canvas: Canvas, blanks: int) -> float:
    """How much is done, 0 to 1, of a canvas that began with so many blanks."""
    return 1 - canvas.blanks / blanks if blanks else 1.0


def settle(canvas: Canvas, section: Section, vocabulary: Vocabulary) -> Settled:
    """What is sure of one run of the answer."""
    ids = canvas.ids[section.start : section.stop]
    blank = canvas.blank[section.start : section.stop]
    span = _span(section.kind, vocabulary)
    inside = span.holds(ids) & ~blank
    if section.kind == "image":
        codes = torch.where(inside, ids - span.start, -1)
        return Settled("image", codes, not bool(blank.any()))
    stop = _first(~inside)
    return Settled(section.kind, span.lower(ids[:stop]), not bool(blank[stop : stop + 1].any()))


def sure_text(settled: Settled, codec: TokenCodec[str]) -> str:
    """The text of a text run as far as it is sure; half a character is held back."""
    text = codec.decode(settled.codes)
    return text if settled.whole else text.rstrip(NO_CHARACTER)


def preview(settled: Settled, codec: TokenCodec[Picture]) -> Picture | None:
    """The picture so far, grey where nothing is sure; None while all is open or it is not square.

    Open cells are decoded as their nearest sure neighbours, so that the edges of sure cells are
    not spoiled by whatever an arbitrary code would look like.
    """
    side = math.isqrt(len(settled.codes))
    sure = (settled.codes >= 0).nonzero().flatten()
    if side * side != len(settled.codes) or not len(sure):
        return None
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    nearest = sure[torch.cdist(cells, cells[sure]).argmin(dim=1)]
    picture = codec.decode(settled.codes[nearest])
    known = (settled.codes >= 0).view(side, side)
    known = known.repeat_interleave(picture.height // side, 0)
    known = known.repeat_interleave(picture.width // side, 1)
    pixels = torch.where(known[..., None], picture.pixels, GREY)
    return replace(picture, pixels=pixels.to(torch.uint8))


def _span(kind: Kind, vocabulary: Vocabulary) -> Span:
    return {"text": vocabulary.text, "speech": vocabulary.speech, "image": vocabulary.image}[kind]


def _first(marked: Tensor) -> int:
    """The first marked place of [n], or n."""
    where = marked.nonzero()
    return int(where[0]) if len(where) else len(marked)

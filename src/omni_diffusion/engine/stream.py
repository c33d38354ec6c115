"""What is certain of an answer that is still being denoised.

Pure functions of the canvas: a committed token never changes, so whatever stands before the first
masked token of a segment can be shown, spoken or sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.base import TokenCodec
from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.media import Picture
from omni_diffusion.tasks.layout import SegmentSpan
from omni_diffusion.tasks.read import speech_ids, text_ids
from omni_diffusion.tasks.render import Model
from omni_diffusion.vocab import Kind, Vocabulary

GREY = 128
REPLACEMENT = "\ufffd"


@dataclass(frozen=True, eq=False)
class CommittedSpan:
    """What is committed of one segment of the answer.

    codes: local ids int64 [n]: text and speech up to the first masked token, a picture cell by cell
    with -1 where it is masked. whole: nothing more will come.
    """

    kind: Kind
    codes: Tensor
    whole: bool


@dataclass(frozen=True, eq=False)
class PartialResult:
    """An answer so far: the fraction of its masked tokens that are committed, and its segments."""

    progress: float
    spans: tuple[CommittedSpan, ...]


def partial_result(
    canvas: Canvas, blanks: int, spans: Sequence[SegmentSpan], vocabulary: Vocabulary
) -> PartialResult:
    """What is committed on a canvas that began with `blanks` masked tokens."""
    committed = tuple(committed_span(canvas, span, vocabulary) for span in spans)
    return PartialResult(progress_of(canvas, blanks), committed)


def progress_of(canvas: Canvas, blanks: int) -> float:
    """The committed fraction, 0 to 1, of a canvas that began with `blanks` masked tokens."""
    return 1 - canvas.blanks / blanks if blanks else 1.0


def committed_span(canvas: Canvas, segment: SegmentSpan, vocabulary: Vocabulary) -> CommittedSpan:
    """What is committed of one segment of the answer."""
    ids = canvas.ids[segment.start : segment.stop]
    blank = canvas.blank[segment.start : segment.stop]
    span = vocabulary.span_of(segment.kind)
    inside = span.holds(ids) & ~blank
    if segment.kind == "image":
        codes = torch.where(inside, ids - span.start, -1)
        return CommittedSpan("image", codes, not bool(blank.any()))
    known = ids[: _first(blank)]
    readable = text_ids if segment.kind == "text" else speech_ids
    ended = torch.isin(known, _ends(segment.kind, vocabulary))
    return CommittedSpan(
        segment.kind, readable(known, vocabulary), len(known) == len(ids) or bool(ended.any())
    )


def behind_ends(canvas: Canvas, spans: Sequence[SegmentSpan], vocabulary: Vocabulary) -> Tensor:
    """Masked positions int64 [n] that will never be read.

    They stand in a text or speech segment behind a committed end of it, with nothing masked before
    that end.
    """
    found = [torch.empty(0, dtype=torch.int64)]
    for span in spans:
        if span.kind == "image":
            continue
        ids, blank = canvas.ids[span.start : span.stop], canvas.blank[span.start : span.stop]
        end = _first(torch.isin(ids, _ends(span.kind, vocabulary)))
        if end < len(ids) and not bool(blank[:end].any()):
            found.append(blank[end:].nonzero().flatten() + span.start + end)
    return torch.cat(found)


def committed_text(span: CommittedSpan, codec: TokenCodec[str]) -> str:
    """The text of a text segment so far; an incomplete character is held back."""
    text = codec.decode(span.codes)
    return text if span.whole else text.rstrip(REPLACEMENT)


def preview(span: CommittedSpan, codec: TokenCodec[Picture]) -> Picture | None:
    """The picture so far, grey in masked cells; None if all are masked or it is not square.

    Masked cells are decoded as their nearest committed neighbours, since an arbitrary code would
    spoil the edges of the cells beside it.
    """
    side = math.isqrt(len(span.codes))
    committed = (span.codes >= 0).nonzero().flatten()
    if side * side != len(span.codes) or not len(committed):
        return None
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    nearest = committed[torch.cdist(cells, cells[committed]).argmin(dim=1)]
    picture = codec.decode(span.codes[nearest])
    known = (span.codes >= 0).view(side, side)
    known = known.repeat_interleave(picture.height // side, 0)
    known = known.repeat_interleave(picture.width // side, 1)
    pixels = torch.where(known[..., None], picture.pixels, GREY)
    return replace(picture, pixels=pixels.to(torch.uint8))


def token_label(id: int, model: Model) -> str:
    """The name of a token for a reader; a space is drawn as a dot, a line end as an arrow."""
    vocabulary = model.vocabulary
    if id in vocabulary.text:
        text = model.codecs.text.decode(torch.tensor([vocabulary.text.lower(id)]))
        return text.replace(" ", "·").replace("\n", "⏎")
    return "pad" if id == vocabulary.pad else vocabulary.name(id)


def certainty(confidence: float, measure: Measure) -> float:
    """A confidence as a number from 0 to 1; of minus the entropy H it is exp(-H)."""
    sure = math.exp(confidence) if measure == "entropy" else confidence
    return min(max(sure, 0.0), 1.0)


def _ends(kind: Kind, vocabulary: Vocabulary) -> Tensor:
    """The ids that end a text or a speech."""
    ends = [vocabulary.im_end, vocabulary.pad, vocabulary.end_of_audio]
    return torch.tensor(ends if kind == "speech" else ends[:2])


def _first(mask: Tensor) -> int:
    """The index of the first True of [n], or n."""
    where = mask.nonzero()
    return int(where[0]) if len(where) else len(mask)

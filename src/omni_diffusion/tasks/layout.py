"""The layout of an answer: its segments, what closes them, and where pads go.

An answer of n tokens holds, in order (pads fill the rest):
    text         text.. im_end newline pad..
    image        begin_of_image codes end_of_image im_end newline       (exact)
    speech       begin_of_audio codes.. end_of_audio im_end newline pad..
    text+speech  text.. pad..  up to position floor(n / 4), then as speech
    text+image   text.. pad..  for n tokens, then as image
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas, FeatureSlot
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Blank, Codes, Partial, PartialImage
from omni_diffusion.errors import TaskError
from omni_diffusion.vocab import Kind, Vocabulary

SPEECH_AT = 0.25
"""Fraction of an answer after which its speech begins (special token pre-infilling, the paper)."""

OPENERS: dict[Kind, str] = {"image": "begin_of_image", "speech": "begin_of_audio"}
CLOSERS: dict[Kind, str] = {"image": "end_of_image", "speech": "end_of_audio"}


@dataclass(frozen=True)
class Segment:
    """A part of an answer: `length` tokens of one kind.

    open: the closing tokens and pads lie inside, so the content may end early. Otherwise all tokens
    are codes and the closing tokens follow.
    """

    kind: Kind
    length: int
    open: bool = False


@dataclass(frozen=True)
class SegmentSpan:
    """Where a segment lies on the canvas: positions start..stop-1, without its opening token.

    source: the picture with a hole that the segment comes from, if any.
    """

    kind: Kind
    start: int
    stop: int
    source: PartialImage | None = None


def segments_of(answer: Sequence[Kind], length: int, cells: int, at: float) -> tuple[Segment, ...]:
    """The segments of an answer of `length` tokens; a picture always takes `cells` codes.

    Raises TaskError where a segment would be empty.
    """
    if tuple(answer) == ("image",):
        return (Segment("image", cells),)
    segments: tuple[Segment, ...]
    if tuple(answer) == ("text",):
        segments = (Segment("text", length, open=True),)
    elif tuple(answer) == ("speech",):
        segments = (Segment("speech", length - 1, open=True),)
    elif tuple(answer) == ("text", "speech"):
        first = math.floor(at * length)
        rest = length - first - 1
        segments = (Segment("text", first, open=True), Segment("speech", rest, open=True))
    elif tuple(answer) == ("text", "image"):
        segments = (Segment("text", length, open=True), Segment("image", cells))
    else:
        raise TaskError(f"no answer is made of {', '.join(answer)}; use the task 'infill'")
    if min(segment.length for segment in segments) < 1:
        raise TaskError(
            f"an answer of {length} tokens is too short",
            field="max_tokens",
            value=length,
            fix="give 4 or more",
        )
    return segments


def minimum_length(answer: Sequence[Kind], sizes: Sequence[int], at: float) -> int:
    """The fewest tokens that hold an answer whose parts have `sizes` tokens."""
    closing = {"text": 2, "image": 4, "speech": 4}  # with what opens it
    if tuple(answer) == ("text", "image"):
        return max(sizes[0], 1)  # the picture's tokens do not count
    if tuple(answer) != ("text", "speech"):
        return sum(sizes) + closing[answer[0]]
    text, speech = sizes
    length = max(text, 1) + speech + closing["speech"]
    while math.floor(at * length) < max(text, 1) or length - math.floor(at * length) < speech + 4:
        length += 1
    return length


class CanvasBuilder:
    """Writes a canvas from left to right.

    scaffold: whether the tokens that open and close an answer's parts are written; if not, the
    model predicts them, as in the published code.
    """

    def __init__(self, vocabulary: Vocabulary, text: TextCodec, *, scaffold: bool = True) -> None:
        self.vocabulary = vocabulary
        self.codec = text
        self.scaffold = scaffold
        self.position = 0
        self._pending = ""
        self._ids: list[Tensor] = []
        self._blank: list[Tensor] = []
        self._allowed: list[Tensor] = []
        self._slots: list[FeatureSlot] = []

    def add_text(self, text: str) -> None:
        """Add text; texts with nothing between them are tokenized together."""
        self._pending += text

    def flush(self) -> None:
        """Tokenize the text so far; what follows starts a new token."""
        text, self._pending = self._pending, ""
        if text:
            self._given(self.vocabulary.text.lift(self.codec.encode(text)))

    def add_special(self, name: str) -> None:
        """Add a special token by its name."""
        self._given(torch.tensor([self.vocabulary.id(name)]))

    def add_codes(self, codes: Codes) -> None:
        """Add known codes between the tokens that open and close their kind."""
        if codes.kind in OPENERS:
            self.add_special(OPENERS[codes.kind])
        self._given(self._lift(codes.kind, codes.ids))
        if codes.kind in CLOSERS:
            self.add_special(CLOSERS[codes.kind])

    def add_frames(self, frames: Tensor) -> None:
        """Add speech input: frames [n, dim] over the positions of context tokens."""
        self.add_special(OPENERS["speech"])
        self._slots.append(FeatureSlot(self.position, frames))
        self._given(torch.full((len(frames),), self.vocabulary.context_of_audio))
        self.add_special(CLOSERS["speech"])

    def add_segment(
        self, segment: Segment, part: Codes | Blank | Partial | None, *, first: bool, last: bool
    ) -> SegmentSpan:
        """Add one run of an answer with what is known of it; None = nothing.

        first, last: whether it begins, whether it ends the answer. Raises TaskError when the
        part does not fit the segment.
        """
        self.flush()
        if segment.kind in OPENERS:
            # Inside an answer this token says where speech begins, so it is always written.
            opener = torch.tensor([self.vocabulary.id(OPENERS[segment.kind])])
            self._frame(opener, given=self.scaffold or not first)
        start, closers = self.position, self._closers(segment.kind, last)
        ids, blank = self._contents(segment, part, closers)
        self._put(ids, blank, self._range(segment))
        source = part.source if isinstance(part, Partial) else None
        span = SegmentSpan(segment.kind, start, self.position, source)
        if not segment.open:
            self._frame(closers, given=self.scaffold)
        return span

    def canvas(self, start: int) -> Canvas:
        """The canvas so far, whose answer begins at position `start`."""
        self.flush()
        return Canvas(
            ids=torch.cat(self._ids),
            blank=torch.cat(self._blank),
            allowed=torch.cat(self._allowed),
            answer=(start, self.position),
            slots=tuple(self._slots),
        )

    def _contents(
        self, segment: Segment, part: Codes | Blank | Partial | None, closers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ids and blanks [segment.length] of a segment."""
        if part is None or isinstance(part, Blank):
            self._check(segment, segment.length if part is None else len(part))
            return self._unknown(segment.length)
        ids = self._lift(segment.kind, part.ids)
        if isinstance(part, Partial):
            self._check(segment, len(part))
            return torch.where(part.blank, self.vocabulary.mask, ids), part.blank
        if segment.open:
            ids = torch.cat([ids, closers])
            spare = max(segment.length - len(ids), 0)
            ids = torch.cat([ids, torch.full((spare,), self.vocabulary.pad)])
        self._check(segment, len(ids))
        return ids, torch.zeros(len(ids), dtype=torch.bool)

    def _check(self, segment: Segment, length: int) -> None:
        if length != segment.length:
            raise TaskError(
                f"the answer's {segment.kind} needs {length} tokens, it has {segment.length}",
                field="max_tokens",
                value=segment.length,
                fix="give the answer another length",
            )

    def _closers(self, kind: Kind, last: bool) -> Tensor:
        """What follows the codes of a segment, and the turn's end after the last one."""
        own = [self.vocabulary.id(CLOSERS[kind])] if kind in CLOSERS else []
        if not last:
            return torch.tensor(own, dtype=torch.int64)
        end = torch.tensor([*own, self.vocabulary.im_end])
        return torch.cat([end, self.vocabulary.text.lift(self.codec.encode("\n"))])

    def _range(self, segment: Segment) -> tuple[int, int]:
        if segment.open:
            return self.vocabulary.range("text" if segment.kind == "text" else "speech")
        span = self.vocabulary.span_of(segment.kind)
        return span.start, span.stop

    def _lift(self, kind: Kind, ids: Tensor) -> Tensor:
        return self.vocabulary.span_of(kind).lift(ids)

    def _frame(self, ids: Tensor, *, given: bool) -> None:
        if given:
            self._given(ids)
        else:
            self._put(*self._unknown(len(ids)), self.vocabulary.range("any"))

    def _unknown(self, length: int) -> tuple[Tensor, Tensor]:
        return torch.full((length,), self.vocabulary.mask), torch.ones(length, dtype=torch.bool)

    def _given(self, ids: Tensor) -> None:
        self.flush()
        self._put(ids, torch.zeros(len(ids), dtype=torch.bool), self.vocabulary.range("any"))

    def _put(self, ids: Tensor, blank: Tensor, allowed: tuple[int, int]) -> None:
        self._ids.append(ids)
        self._blank.append(blank)
        self._allowed.append(torch.tensor(allowed).expand(len(ids), 2))
        self.position += len(ids)

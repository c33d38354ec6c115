"""How turns lie on a row of places: the answer's runs, what closes them, and where pads go.

An answer of n places holds, in order (pads fill what is left over):
    text         text.. im_end newline pad..
    image        begin_of_image codes end_of_image im_end newline       (exact)
    speech       begin_of_audio codes.. end_of_audio im_end newline pad..
    text+speech  text.. pad..  up to place floor(n / 4), then as speech
    text+image   text.. pad..  for n places, then as image
Knows no prompt and no codec but the text's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas, FeatureSlot
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.parts import Blank, Codes, Kind, Partial, PartialImage, Unknown
from omni_diffusion.vocab import Span, Vocabulary

SPEECH_AT = 0.25
"""Share of an answer after which its speech begins (special token pre-infilling, the paper)."""

OPENERS: dict[Kind, str] = {"image": "begin_of_image", "speech": "begin_of_audio"}
CLOSERS: dict[Kind, str] = {"image": "end_of_image", "speech": "end_of_audio"}


@dataclass(frozen=True)
class Run:
    """A stretch of `length` places for one kind of token.

    open: the closing tokens and pads lie inside, so what the run holds may end early. Otherwise
    all places are codes and the closing tokens follow.
    """

    kind: Kind
    length: int
    open: bool = False


@dataclass(frozen=True)
class Section:
    """Where a run lies on the canvas: places start..stop-1, without what opens it.

    source: the picture with a hole that the run was laid from, if it was.
    """

    kind: Kind
    start: int
    stop: int
    source: PartialImage | None = None


def runs_of(answer: Sequence[Kind], length: int, cells: int, at: float) -> tuple[Run, ...]:
    """The runs of an answer of `length` places; a picture takes `cells` codes whatever `length`.

    Raises TaskError where a run would have no place.
    """
    if tuple(answer) == ("image",):
        return (Run("image", cells),)
    runs: tuple[Run, ...]
    if tuple(answer) == ("text",):
        runs = (Run("text", length, open=True),)
    elif tuple(answer) == ("speech",):
        runs = (Run("speech", length - 1, open=True),)
    elif tuple(answer) == ("text", "speech"):
        first = math.floor(at * length)
        runs = (Run("text", first, open=True), Run("speech", length - first - 1, open=True))
    elif tuple(answer) == ("text", "image"):
        runs = (Run("text", length, open=True), Run("image", cells))
    else:
        raise TaskError(f"no answer is made of {', '.join(answer)}; use the task 'infill'")
    if min(run.length for run in runs) < 1:
        raise TaskError(f"an answer of {length} places is too short; give 4 or more")
    return runs


def least_length(answer: Sequence[Kind], sizes: Sequence[int], at: float) -> int:
    """The fewest places that hold an answer whose parts have `sizes` tokens."""
    closing = {"text": 2, "image": 4, "speech": 4}  # with what opens it
    if tuple(answer) == ("text", "image"):
        return max(sizes[0], 1)  # a picture's places do not count
    if tuple(answer) != ("text", "speech"):
        return sum(sizes) + closing[answer[0]]
    text, speech = sizes
    length = max(text, 1) + speech + closing["speech"]
    while math.floor(at * length) < max(text, 1) or length - math.floor(at * length) < speech + 4:
        length += 1
    return length


class Row:
    """A canvas in the making, written from left to right.

    scaffold: whether what opens and closes an answer's parts is given; if not, the model has to
    find it, as in the published code.
    """

    def __init__(self, vocabulary: Vocabulary, text: TextCodec, *, scaffold: bool = True) -> None:
        self.vocabulary = vocabulary
        self.text = text
        self.scaffold = scaffold
        self.place = 0
        self._said = ""
        self._ids: list[Tensor] = []
        self._blank: list[Tensor] = []
        self._allowed: list[Tensor] = []
        self._slots: list[FeatureSlot] = []

    def say(self, text: str) -> None:
        """Add text; what is said without anything between is tokenised in one piece."""
        self._said += text

    def cut(self) -> None:
        """Tokenise what was said; what follows starts a token of its own."""
        said, self._said = self._said, ""
        if said:
            self._given(self.vocabulary.text.lift(self.text.encode(said)))

    def special(self, name: str) -> None:
        """Add a special token by its name."""
        self._given(torch.tensor([self.vocabulary.id(name)]))

    def media(self, codes: Codes) -> None:
        """Add given codes with the tokens that stand around their kind."""
        if codes.kind in OPENERS:
            self.special(OPENERS[codes.kind])
        self._given(self._lift(codes.kind, codes.ids))
        if codes.kind in CLOSERS:
            self.special(CLOSERS[codes.kind])

    def hear(self, frames: Tensor) -> None:
        """Add speech that is heard: frames [n, dim] lie over the places of context tokens."""
        self.special(OPENERS["speech"])
        self._slots.append(FeatureSlot(self.place, frames))
        self._given(torch.full((len(frames),), self.vocabulary.context_of_audio))
        self.special(CLOSERS["speech"])

    def run(self, run: Run, piece: Codes | Unknown | None, *, first: bool, last: bool) -> Section:
        """Add one run of an answer with what is known of it; None = nothing.

        first, last: whether it begins, whether it ends the answer. Raises TaskError when the
        piece does not fit the run.
        """
        self.cut()
        if run.kind in OPENERS:
            # Inside an answer this token says where speech begins, which is given in any case.
            opener = torch.tensor([self.vocabulary.id(OPENERS[run.kind])])
            self._frame(opener, given=self.scaffold or not first)
        start, closers = self.place, self._closers(run.kind, last)
        ids, blank = self._contents(run, piece, closers)
        self._put(ids, blank, self._range(run))
        source = piece.source if isinstance(piece, Partial) else None
        section = Section(run.kind, start, self.place, source)
        if not run.open:
            self._frame(closers, given=self.scaffold)
        return section

    def canvas(self, start: int) -> Canvas:
        """What was written, as a canvas whose answer begins at place `start`."""
        self.cut()
        return Canvas(
            ids=torch.cat(self._ids),
            blank=torch.cat(self._blank),
            allowed=torch.cat(self._allowed),
            answer=(start, self.place),
            slots=tuple(self._slots),
        )

    def _contents(
        self, run: Run, piece: Codes | Unknown | None, closers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ids and blanks [run.length] of a run."""
        if piece is None or isinstance(piece, Blank):
            self._check(run, run.length if piece is None else len(piece))
            return self._unknown(run.length)
        ids = self._lift(run.kind, piece.ids)
        if isinstance(piece, Partial):
            self._check(run, len(piece))
            return torch.where(piece.blank, self.vocabulary.mask, ids), piece.blank
        if run.open:
            ids = torch.cat([ids, closers])
            spare = max(run.length - len(ids), 0)
            ids = torch.cat([ids, torch.full((spare,), self.vocabulary.pad)])
        self._check(run, len(ids))
        return ids, torch.zeros(len(ids), dtype=torch.bool)

    def _check(self, run: Run, length: int) -> None:
        if length != run.length:
            raise TaskError(
                f"the answer's {run.kind} needs {length} places, it has {run.length};"
                " give the answer another length"
            )

    def _closers(self, kind: Kind, last: bool) -> Tensor:
        """What follows the codes of a run, and the turn's end after the last one."""
        own = [self.vocabulary.id(CLOSERS[kind])] if kind in CLOSERS else []
        if not last:
            return torch.tensor(own, dtype=torch.int64)
        end = torch.tensor([*own, self.vocabulary.im_end])
        return torch.cat([end, self.vocabulary.text.lift(self.text.encode("\n"))])

    def _range(self, run: Run) -> tuple[int, int]:
        if run.open:
            return self.vocabulary.range("text" if run.kind == "text" else "speech")
        span = _span(self.vocabulary, run.kind)
        return span.start, span.stop

    def _lift(self, kind: Kind, ids: Tensor) -> Tensor:
        return _span(self.vocabulary, kind).lift(ids)

    def _frame(self, ids: Tensor, *, given: bool) -> None:
        if given:
            self._given(ids)
        else:
            self._put(*self._unknown(len(ids)), self.vocabulary.range("any"))

    def _unknown(self, length: int) -> tuple[Tensor, Tensor]:
        return torch.full((length,), self.vocabulary.mask), torch.ones(length, dtype=torch.bool)

    def _given(self, ids: Tensor) -> None:
        self.cut()
        self._put(ids, torch.zeros(len(ids), dtype=torch.bool), self.vocabulary.range("any"))

    def _put(self, ids: Tensor, blank: Tensor, allowed: tuple[int, int]) -> None:
        self._ids.append(ids)
        self._blank.append(blank)
        self._allowed.append(torch.tensor(allowed).expand(len(ids), 2))
        self.place += len(ids)


def _span(vocabulary: Vocabulary, kind: Kind) -> Span:
    spans = {"text": vocabulary.text, "image": vocabulary.image, "speech": vocabulary.speech}
    return spans[kind]

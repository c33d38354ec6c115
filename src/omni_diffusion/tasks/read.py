"""From a filled canvas back to the parts of a conversation.

Reading never fails: what the model wrote and cannot be read is skipped and noted. Global ids become
local ids here, which the codecs decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.tasks.infill import composite, composite_note
from omni_diffusion.tasks.layout import SegmentSpan
from omni_diffusion.tasks.render import Model, Prepared
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Answer:
    """The parts that could be read, in order, and notes for the user, a line each."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def read(canvas: Canvas, prepared: Prepared, model: Model) -> Answer:
    """The answer on a canvas laid out as `prepared`; tokens that are still masked are skipped."""
    parts: list[Part] = []
    notes: list[str] = []
    for spans in _joined(prepared.spans):
        part, *said = _part(canvas, spans, prepared, model)
        parts += [] if part is None else [part]
        notes += [note for note in said if note is not None]
    return Answer(tuple(parts), tuple(notes))


def text_ids(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local text ids of tokens [n]: up to the first end of turn or pad, without specials."""
    ids = _before(ids, vocabulary.im_end, vocabulary.pad)
    return vocabulary.text.lower(ids[vocabulary.text.holds(ids)])


def speech_ids(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local speech codes of tokens [n]: up to the first end of speech, of turn, or pad."""
    ids = _before(ids, vocabulary.end_of_audio, vocabulary.im_end, vocabulary.pad)
    return vocabulary.speech.lower(ids[vocabulary.speech.holds(ids)])


def image_ids(ids: Tensor, vocabulary: Vocabulary, *, upstream: bool = False) -> Tensor:
    """Local codes [n] of tokens [n]; a cell without a code repeats the code before it.

    upstream: tokens that are not image codes are dropped instead, so later codes move up, and the
    last code is repeated at the end. Empty where no token is an image code.
    """
    if upstream:
        held = vocabulary.image.holds(ids)
        ids = torch.cat([ids[held], ids[~held]])
    held = vocabulary.image.holds(ids)
    if not bool(held.any()):
        return ids[:0]
    before = torch.where(held, torch.arange(len(ids)), -1).cummax(0).values
    return vocabulary.image.lower(ids[before.clamp(min=int(held.nonzero()[0]))])


def _part(
    canvas: Canvas, spans: Sequence[SegmentSpan], prepared: Prepared, model: Model
) -> tuple[Part | None, *tuple[str | None, ...]]:
    """One part and notes about it; several spans only for text with gaps."""
    vocabulary, codecs, first = model.vocabulary, model.codecs, spans[0]
    ids = canvas.ids[first.start : spans[-1].stop]
    if first.kind == "text":
        text = codecs.text.decode(text_ids(ids, vocabulary))
        empty = "the answer has no text: the model wrote no word"
        return Text(text), None if text.strip() else empty
    if first.kind == "speech":
        codes = speech_ids(ids, vocabulary)
        if not len(codes):
            return None, "the answer has no speech: the model wrote no speech code"
        return Speech(codecs.speech.decode(codes)), None
    # Cells that were given beforehand must not move.
    upstream = prepared.params.rules == "upstream" and bool(prepared.task.answer)
    codes = image_ids(ids, vocabulary, upstream=upstream)
    if not len(codes):
        return None, "the answer has no picture: the model wrote no image code"
    picture, scaled = codecs.image.decode(codes), None
    if first.source is not None:
        scaled = composite_note(first.source, picture.height)
        picture = composite(picture, first.source)
    given = int(vocabulary.image.holds(ids).sum())
    note = f"the picture has {given} of {len(ids)} codes; the others repeat their neighbours"
    return Image(picture), None if given == len(ids) else note, scaled


def _joined(spans: Sequence[SegmentSpan]) -> Iterable[list[SegmentSpan]]:
    """Spans in groups; neighbouring spans of text are one group."""
    group = list(spans[:1])
    for before, span in pairwise(spans):
        if before.kind == span.kind == "text" and before.stop == span.start:
            group.append(span)
            continue
        yield group
        group = [span]
    if group:
        yield group


def _before(ids: Tensor, *ends: int) -> Tensor:
    """The ids [n] before the first of `ends`."""
    found = torch.isin(ids, torch.tensor(ends)).nonzero()
    return ids[: int(found[0])] if len(found) else ids

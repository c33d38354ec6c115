"""A filled canvas becomes parts of a conversation again.

Reads whatever the model wrote without ever failing: what cannot be read is left out and noted.
Global ids are taken apart here; codecs get local ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.tasks.infill import composite
from omni_diffusion.tasks.layout import Section
from omni_diffusion.tasks.render import Model, Prepared
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Answer:
    """The parts that could be read, in order, and what a reader should know, one line each."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def read(canvas: Canvas, prepared: Prepared, model: Model) -> Answer:
    """The answer on a canvas that came from `prepared`; places still blank are passed over."""
    parts: list[Part] = []
    notes: list[str] = []
    for sections in _joined(prepared.sections):
        part, note = _part(canvas, sections, prepared, model)
        parts += [] if part is None else [part]
        notes += [] if note is None else [note]
    return Answer(tuple(parts), tuple(notes))


def text_ids(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local text ids of places [n]: up to the first end of turn or pad, without specials."""
    ids = _before(ids, vocabulary.im_end, vocabulary.pad)
    return vocabulary.text.lower(ids[vocabulary.text.holds(ids)])


def speech_ids(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local speech codes of places [n]: up to the first end of speech, of turn, or pad."""
    ids = _before(ids, vocabulary.end_of_audio, vocabulary.im_end, vocabulary.pad)
    return vocabulary.speech.lower(ids[vocabulary.speech.holds(ids)])


def image_ids(ids: Tensor, vocabulary: Vocabulary, *, published: bool = False) -> Tensor:
    """Local codes [n] of places [n]; a cell without one repeats the cell before.

    published: what is no image code is dropped instead, so that later codes move up, and the last
    one is repeated at the end. Without any code the row is empty.
    """
    if published:
        held = vocabulary.image.holds(ids)
        ids = torch.cat([ids[held], ids[~held]])
    held = vocabulary.image.holds(ids)
    if not bool(held.any()):
        return ids[:0]
    before = torch.where(held, torch.arange(len(ids)), -1).cummax(0).values
    return vocabulary.image.lower(ids[before.clamp(min=int(held.nonzero()[0]))])


def _part(
    canvas: Canvas, sections: Sequence[Section], prepared: Prepared, model: Model
) -> tuple[Part | None, str | None]:
    """One part and a note about it; sections are several only for text cut by blanks."""
    vocabulary, codecs, first = model.vocabulary, model.codecs, sections[0]
    ids = canvas.ids[first.start : sections[-1].stop]
    if first.kind == "text":
        return Text(codecs.text.decode(text_ids(ids, vocabulary))), None
    if first.kind == "speech":
        codes = speech_ids(ids, vocabulary)
        if not len(codes):
            return None, "the answer has no speech: the model wrote no speech code"
        return Speech(codecs.speech.decode(codes)), None
    # Where cells were given beforehand, nothing may move.
    published = prepared.params.rules == "upstream" and bool(prepared.task.answer)
    codes = image_ids(ids, vocabulary, published=published)
    if not len(codes):
        return None, "the answer has no picture: the model wrote no image code"
    picture = codecs.image.decode(codes)
    if first.source is not None:
        picture = composite(picture, first.source)
    given = int(vocabulary.image.holds(ids).sum())
    note = f"the picture has {given} of {len(ids)} codes; the others repeat their neighbours"
    return Image(picture), None if given == len(ids) else note


def _joined(sections: Sequence[Section]) -> Iterable[list[Section]]:
    """Sections, those of text that follow each other at once taken as one."""
    group = list(sections[:1])
    for before, section in pairwise(sections):
        if before.kind == section.kind == "text" and before.stop == section.start:
            group.append(section)
            continue
        yield group
        group = [section]
    if group:
        yield group


def _before(ids: Tensor, *ends: int) -> Tensor:
    """The ids [n] before the first of `ends`."""
    found = torch.isin(ids, torch.tensor(ends)).nonzero()
    return ids[: int(found[0])] if len(found) else ids

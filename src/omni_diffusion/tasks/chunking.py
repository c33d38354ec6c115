"""A long text cut into passages that each fit a canvas, and their sounds joined again.

Passages end with a sentence where they can, else with a clause, else with a word. Nothing is left
out, doubled or moved. Knows no token ids and runs no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import torch

from omni_diffusion.conversation import Text
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.media import Waveform
from omni_diffusion.tasks.catalog import task
from omni_diffusion.tasks.parts import Draft
from omni_diffusion.tasks.render import Model, render

PAUSE = 0.25  # seconds between two passages, about that between two sentences read aloud
# Where a text may be cut, from the best place to the worst: what matches ends a piece. Latin signs
# end one only before white space, so that 3.14 and 10:30 stay whole.
ENDS = (
    re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[\"'”’」』）]*\s*|\s*\n\s*"),
    re.compile(r"[,;:]+[\"'”’)\]]*\s+|[，；：、]+\s*|\s[—–-]+\s+|—"),
    re.compile(r"\s+"),
    re.compile(r".", re.DOTALL),  # a word longer than a passage, or a script without spaces
)


def spoken_passages(text: str, model: Model, *, most: int | None = None) -> tuple[str, ...]:
    """Passages of a text that the task "tts" can speak, in order.

    most: places of one canvas, prompt and answer together; None takes all that the model has. Give
    fewer to a model that was trained on shorter texts. Raises TaskError for an empty text and for
    a canvas that holds not even one character.
    """
    places = model.max_positions if most is None else min(most, model.max_positions)

    def fits(passage: str) -> bool:
        try:
            prepared = render(task("tts"), (Draft("user", (Text(passage),)),), model)
        except TaskError:  # longer than the model has places
            return False
        return prepared.canvas.length <= places

    return passages(text, fits)


def passages(text: str, fits: Callable[[str], bool]) -> tuple[str, ...]:
    """The text as pieces in order of which each `fits`, filled one by one, cut as ENDS says.

    White space around a piece is dropped, all else is kept. Part of what fits should fit as well.
    Raises TaskError for an empty text, and when not even one character fits.
    """
    if not text.strip():
        raise TaskError("the text is empty; give some words")
    return tuple(_cut(text.strip(), fits, ENDS))


def joined(waveforms: Sequence[Waveform], pause: float = PAUSE) -> Waveform:
    """The waveforms one after another with `pause` seconds of silence between them.

    Raises MediaError for none at all, for differing rates or channels, and for a negative pause.
    """
    if not waveforms:
        raise MediaError("no waveforms to join; give at least one")
    if not 0 <= pause < float("inf"):
        raise MediaError(f"the pause is {pause} s; give 0 or more seconds")
    first = waveforms[0]
    for other in waveforms:
        if (other.rate, len(other.samples)) != (first.rate, len(first.samples)):
            raise MediaError(
                f"a waveform has {len(other.samples)} channels at {other.rate} Hz, the first"
                f" {len(first.samples)} at {first.rate} Hz; resample or mix them to the same"
            )
    silence = first.samples.new_zeros(len(first.samples), round(pause * first.rate))
    pieces = [first.samples]
    for waveform in waveforms[1:]:
        pieces += [silence, waveform.samples]
    return Waveform(torch.cat(pieces, 1), first.rate)


def _cut(text: str, fits: Callable[[str], bool], ends: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """The text if it fits, else its pieces at the first of `ends`, as many together as fit."""
    if fits(text):
        yield text
        return
    if not ends:
        raise TaskError(f"not even {text!r} fits a passage; allow more places")
    held = ""
    for piece in _pieces(text, ends[0]):
        if held and not fits((held + piece).strip()):
            yield from _cut(held.strip(), fits, ends[1:])
            held = ""
        held += piece
    yield from _cut(held.strip(), fits, ends[1:])


def _pieces(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """The text cut behind every match of `end`; together they are the text."""
    start = 0
    for stop in (*(match.end() for match in end.finditer(text)), len(text)):
        if text[start:stop].strip():  # white space alone goes to the piece behind it
            yield text[start:stop]
            start = stop

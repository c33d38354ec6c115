"""Cut a long text into passages that each fit a canvas, and join their recordings.

Passages end with a sentence where possible, else with a clause, else with a word. No text is lost,
repeated or moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import torch

from omni_diffusion.conversation import Message, Text
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.media import Waveform
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.render import Model, render
from omni_diffusion.tasks.task import Task

PASSAGE_PAUSE = 0.25  # seconds of silence between passages, as between sentences read aloud
# Where a text may be cut, the best first: a match ends a piece. Latin punctuation ends one only
# before white space, so that 3.14 and 10:30 stay whole.
ENDS = (
    re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[\"'”’」』）]*\s*|\s*\n\s*"),
    re.compile(r"[,;:]+[\"'”’)\]]*\s+|[，；：、]+\s*|\s[—–-]+\s+|—"),
    re.compile(r"\s+"),
    re.compile(r".", re.DOTALL),  # a word longer than a passage, or a script without spaces
)


def spoken_passages(
    text: str, model: Model, *, task: Task = CATALOG["tts"], max_positions: int | None = None
) -> tuple[str, ...]:
    """Passages of a text that a text-to-speech task can speak, in order.

    max_positions: tokens of one canvas, prompt and answer together; None takes all that the model
    has. Give fewer to a model that was trained on shorter texts. Raises TaskError for an empty text
    and for a canvas too short for one character.
    """
    limit = min(max_positions or model.max_positions, model.max_positions)

    def fits(passage: str) -> bool:
        try:
            prepared = render(task, (Message("user", (Text(passage),)),), model)
        except TaskError:  # longer than the model allows
            return False
        return prepared.canvas.length <= limit

    return passages(text, fits)


def passages(text: str, fits: Callable[[str], bool]) -> tuple[str, ...]:
    """Cut a text into pieces that each `fits`, as long as possible, at the best of ENDS.

    White space around a piece is dropped. A part of what fits must fit too. Raises TaskError for an
    empty text, and when not even one character fits.
    """
    if not text.strip():
        raise TaskError("the text is empty", field="text", fix="give some words")
    return tuple(_cut(text.strip(), fits, ENDS))


def joined(waveforms: Sequence[Waveform], pause: float = PASSAGE_PAUSE) -> Waveform:
    """The waveforms one after another with `pause` seconds of silence between them.

    Raises MediaError for no waveforms, for differing rates or channels, and for a negative pause.
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
        raise TaskError(
            f"not even {text!r} fits a passage", field="max_positions", fix="allow more tokens"
        )
    held = ""
    for piece in _pieces(text, ends[0]):
        if held and not fits((held + piece).strip()):
            yield from _cut(held.strip(), fits, ends[1:])
            held = ""
        held += piece
    yield from _cut(held.strip(), fits, ends[1:])


def _pieces(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """The text cut after every match of `end`."""
    start = 0
    for stop in (*(match.end() for match in end.finditer(text)), len(text)):
        if text[start:stop].strip():  # white space alone joins the next piece
            yield text[start:stop]
            start = stop

"""Turns become a canvas: prompt, header of the answer, the answer's runs.

ChatML, with a system turn only where task or conversation has one (NL = line end):
    [<|im_start|> system NL S <|im_end|> NL] <|im_start|> user NL C <|im_end|> NL
    <|im_start|> assistant NL
Nothing here asks whether a model trains on the canvas or is to fill it. Knows no media.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Text
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.layout import SPEECH_AT, Row, Run, Section, least_length, runs_of
from omni_diffusion.tasks.parts import Codes, Frames, Piece, Turn, Unknown
from omni_diffusion.tasks.task import Task, kind_of
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Laid:
    """A canvas, and where on it the runs of the answer lie."""

    canvas: Canvas
    sections: tuple[Section, ...]


def arrange(
    task: Task,
    turns: Sequence[Turn],
    vocabulary: Vocabulary,
    text: TextCodec,
    *,
    length: int | None = None,
    tail: int = 0,
    least: int = 0,
    cells: int = 0,
    scaffold: bool = True,
    speech_at: float = SPEECH_AT,
    null: bool = False,
) -> Laid:
    """Lay turns out; the answer is known, partly known, or blank when no turn of it is given.

    length, cells: places of a blank answer, codes of a blank picture. A known answer without a
    length takes as few places as hold it and `tail` pads, but not fewer than `least`. scaffold:
    give what opens and closes the parts of a blank answer. speech_at: after which share of it
    speech begins.
    """
    dressed = task.dress(turns)
    prompt, answer = _split(dressed)
    if null:
        prompt = task.null(prompt)
    infilled = not task.answer or (bool(answer) and answer[0].open)
    row = Row(vocabulary, text, scaffold=scaffold or infilled)
    for turn in prompt:
        _write_given(row, turn)
    if infilled:
        return _infilled(row, answer)
    known = _pieces(answer[0], text) if answer else None
    sizes = None if known is None else _sizes(task, known)
    if sizes is not None:
        cells = sizes[-1]
        length = length or max(least_length(task.answer, sizes, speech_at) + tail, least)
    runs = runs_of(task.answer, length or 0, cells, speech_at)
    start = _open_turn(row, "assistant")
    sections = _write_runs(row, runs, known or (None,) * len(runs))
    return Laid(row.canvas(start), sections)


def _split(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """The prompt, and the answer: from the first unknown part on, else a last assistant turn."""
    at = next((i for i, turn in enumerate(turns) if turn.open), len(turns))
    if at == len(turns) and turns[-1].role == "assistant":
        at -= 1
    return tuple(turns[:at]), tuple(turns[at:])


def _infilled(row: Row, turns: Sequence[Turn]) -> Laid:
    """Parts as long as they are given, closing tokens known; runs only where turns are open."""
    if not turns:
        raise TaskError("nothing is blank; give an assistant turn with a Blank or a partial part")
    starts: list[int] = []
    sections: list[Section] = []
    for turn in turns:
        if starts and not turn.open:
            _write_given(row, turn)
            continue
        starts.append(_open_turn(row, turn.role))
        pieces = _pieces(turn, row.text)
        runs = [Run(piece.kind, len(piece)) for piece in pieces]
        sections += _write_runs(row, runs, pieces)
    return Laid(row.canvas(starts[0]), tuple(sections))


def _write_runs(
    row: Row, runs: Sequence[Run], pieces: Sequence[Codes | Unknown | None]
) -> tuple[Section, ...]:
    last = len(runs) - 1
    return tuple(
        row.run(run, piece, first=i == 0, last=i == last)
        for i, (run, piece) in enumerate(zip(runs, pieces, strict=True))
    )


def _write_given(row: Row, turn: Turn) -> None:
    row.special("im_start")
    row.say(f"{turn.role}\n")
    if turn.role == "assistant":
        row.cut()  # as where the turn was an answer, whose text cannot join what stands before
    for part in turn.parts:
        if isinstance(part, Text):
            row.say(part.text)
        elif isinstance(part, Frames):
            row.hear(part.frames)
        elif isinstance(part, Codes):
            row.media(part)
    row.special("im_end")
    row.say("\n")


def _open_turn(row: Row, role: str) -> int:
    """Write a turn's header; returns the place where its content begins."""
    row.special("im_start")
    row.say(f"{role}\n")
    row.cut()
    return row.place


def _pieces(turn: Turn, text: TextCodec) -> tuple[Codes | Unknown, ...]:
    """The parts of an answer's turn, neighbouring texts joined and tokenised."""
    found: list[Codes | Unknown] = []
    for is_text, parts in groupby(turn.parts, lambda part: isinstance(part, Text)):
        if is_text:
            said = "".join(part.text for part in parts if isinstance(part, Text))
            found.append(Codes("text", text.encode(said)))
            continue
        for part in parts:
            if isinstance(part, Text | Frames):
                raise TaskError("speech to be heard stands in a turn with blanks; part them")
            found.append(part)
    return tuple(found)


def _sizes(task: Task, pieces: Iterable[Piece]) -> tuple[int, ...]:
    """How long the known parts of an answer are; raises TaskError for the wrong kinds."""
    pieces = tuple(pieces)
    kinds = tuple(kind_of(piece) for piece in pieces)
    if kinds != task.answer:
        raise TaskError(
            f"task {task.name!r} answers with {' and '.join(task.answer)}, the given answer is"
            f" {' and '.join(kinds) or 'empty'}; give those parts in that order"
        )
    return tuple(len(piece) for piece in pieces if not isinstance(piece, Text | Frames))

"""From turns to a canvas: prompt, header of the answer, the answer's segments.

ChatML, with a system turn only where task or conversation has one (NL = line end):
    [<|im_start|> system NL S <|im_end|> NL] <|im_start|> user NL C <|im_end|> NL
    <|im_start|> assistant NL
Training and inference take the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Blank, Codes, EncodedPart, Frames, Partial, Text, Turn
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.layout import (
    SPEECH_AT,
    CanvasBuilder,
    Segment,
    SegmentSpan,
    minimum_length,
    segments_of,
)
from omni_diffusion.tasks.task import Task, kind_of
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class ArrangedCanvas:
    """A canvas, and where the segments of its answer lie."""

    canvas: Canvas
    spans: tuple[SegmentSpan, ...]


def arrange(
    task: Task,
    turns: Sequence[Turn],
    vocabulary: Vocabulary,
    text: TextCodec,
    *,
    length: int | None = None,
    tail: int = 0,
    min_length: int = 0,
    cells: int = 0,
    scaffold: bool = True,
    speech_at: float = SPEECH_AT,
    null: bool = False,
) -> ArrangedCanvas:
    """Lay turns out; the answer is known, partly known, or masked when no turn of it is given.

    length, cells: tokens of a masked answer, codes of a masked picture. A known answer without a
    length takes as few tokens as hold it and `tail` pads, but not fewer than `min_length`.
    scaffold: write the tokens that open and close the parts of a masked answer. speech_at: the
    fraction of the answer after which speech begins. null: use the task's null prompt.
    """
    dressed = task.dress(turns)
    prompt, answer = _split(dressed)
    if null:
        prompt = task.null(prompt)
    infilled = not task.answer or (bool(answer) and answer[0].open)
    builder = CanvasBuilder(vocabulary, text, scaffold=scaffold or infilled)
    for turn in prompt:
        _write_given(builder, turn)
    if infilled:
        return _infilled(builder, answer)
    known = _answer_parts(answer[0], text) if answer else None
    sizes = None if known is None else _sizes(task, known)
    if sizes is not None:
        cells = sizes[-1]
        length = length or max(minimum_length(task.answer, sizes, speech_at) + tail, min_length)
    segments = segments_of(task.answer, length or 0, cells, speech_at)
    start = _open_turn(builder, "assistant")
    spans = _write_segments(builder, segments, known or (None,) * len(segments))
    return ArrangedCanvas(builder.canvas(start), spans)


def _split(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """The prompt, and the answer: from the first masked part on, else a last assistant turn."""
    at = next((i for i, turn in enumerate(turns) if turn.open), len(turns))
    if at == len(turns) and turns[-1].role == "assistant":
        at -= 1
    return tuple(turns[:at]), tuple(turns[at:])


def _infilled(builder: CanvasBuilder, turns: Sequence[Turn]) -> ArrangedCanvas:
    """Parts keep their length and closing tokens are known; only open turns become segments."""
    if not turns:
        raise TaskError(
            "no token is masked",
            field="conversation",
            fix="give an assistant turn with a Blank or a partial part",
        )
    starts: list[int] = []
    spans: list[SegmentSpan] = []
    for turn in turns:
        if starts and not turn.open:
            _write_given(builder, turn)
            continue
        starts.append(_open_turn(builder, turn.role))
        parts = _answer_parts(turn, builder.codec)
        segments = [Segment(part.kind, len(part)) for part in parts]
        spans += _write_segments(builder, segments, parts)
    return ArrangedCanvas(builder.canvas(starts[0]), tuple(spans))


def _write_segments(
    builder: CanvasBuilder,
    segments: Sequence[Segment],
    parts: Sequence[Codes | Blank | Partial | None],
) -> tuple[SegmentSpan, ...]:
    last = len(segments) - 1
    return tuple(
        builder.add_segment(segment, part, first=i == 0, last=i == last)
        for i, (segment, part) in enumerate(zip(segments, parts, strict=True))
    )


def _write_given(builder: CanvasBuilder, turn: Turn) -> None:
    builder.add_special("im_start")
    builder.add_text(f"{turn.role}\n")
    if turn.role == "assistant":
        builder.flush()  # an answer's text never joins the token before it
    for part in turn.parts:
        if isinstance(part, Text):
            builder.add_text(part.text)
        elif isinstance(part, Frames):
            builder.add_frames(part.frames)
        elif isinstance(part, Codes):
            builder.add_codes(part)
    builder.add_special("im_end")
    builder.add_text("\n")


def _open_turn(builder: CanvasBuilder, role: str) -> int:
    """Write a turn's header and return the position where its content begins."""
    builder.add_special("im_start")
    builder.add_text(f"{role}\n")
    builder.flush()
    return builder.position


def _answer_parts(turn: Turn, text: TextCodec) -> tuple[Codes | Blank | Partial, ...]:
    """The parts of an answer's turn, with neighbouring texts joined and tokenized."""
    found: list[Codes | Blank | Partial] = []
    for is_text, parts in groupby(turn.parts, lambda part: isinstance(part, Text)):
        if is_text:
            said = "".join(part.text for part in parts if isinstance(part, Text))
            found.append(Codes("text", text.encode(said)))
            continue
        for part in parts:
            if isinstance(part, Text | Frames):
                raise TaskError(
                    "speech input stands in a turn with masked parts",
                    field="conversation",
                    fix="put it into a turn of its own",
                )
            found.append(part)
    return tuple(found)


def _sizes(task: Task, parts: Iterable[EncodedPart]) -> tuple[int, ...]:
    """Lengths of the known parts of an answer; raises TaskError for the wrong kinds."""
    parts = tuple(parts)
    kinds = tuple(kind_of(part) for part in parts)
    if kinds != task.answer:
        raise TaskError(
            f"task {task.name!r} answers with {' and '.join(task.answer)}, the given answer is"
            f" {' and '.join(kinds) or 'empty'}; give those parts in that order"
        )
    return tuple(len(part) for part in parts if not isinstance(part, Text | Frames))

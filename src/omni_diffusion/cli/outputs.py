"""Where an answer goes: text to stdout, a picture or recording to a file, a trace to JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omni_diffusion.conversation import Image, Part, Speech
from omni_diffusion.engine.request import Result
from omni_diffusion.errors import StorageError, TaskError
from omni_diffusion.io import files
from omni_diffusion.media import PICTURE_FORMATS, SOUND_FORMATS
from omni_diffusion.tasks.task import Task

FORMATS = {"image": tuple(PICTURE_FORMATS), "speech": tuple(SOUND_FORMATS)}


def output_path(task: Task, out: Path | None) -> Path | None:
    """Where the answer's picture or recording goes; None for a task that answers in text alone.

    Raises TaskError or StorageError now rather than after the work.
    """
    kinds = task.answer or ((task.partial,) if task.partial else ())
    kind = next((kind for kind in kinds if kind != "text"), None)
    if kind is None:
        if out is not None:
            raise TaskError(
                f"task {task.name!r} answers in text, on stdout", field="out", fix="omit it"
            )
        return None
    name = Path(task.name + FORMATS[kind][0])
    path = name if out is None else out / name if files.is_dir(out) else out
    if path.suffix.lower() not in FORMATS[kind]:
        what = "a picture" if kind == "image" else "sound"
        raise TaskError(
            f"{path} cannot hold {what}",
            field="out",
            value=str(path),
            fix=f"end it in {' or '.join(FORMATS[kind])}",
        )
    files.check_writable(path)
    return path


def hand_over(result: Result, path: Path | None, trace: Path | None) -> StorageError | None:
    """Write the answer's picture or recording, and its trace; returns the first error.

    An error of one file costs neither the other nor the words, which the caller prints.
    """
    error = None
    try:
        if path is not None:
            write_media(result.parts, path)
    except StorageError as refused:
        error = refused
    try:
        if trace is not None:
            write_trace(result, trace)
    except StorageError as refused:
        error = error or refused
    return error


def write_media(parts: Sequence[Part], path: Path) -> None:
    """Write the first picture or recording of an answer, if it has one."""
    for part in parts:
        if isinstance(part, Image):
            part.picture.write(path)
            return
        if isinstance(part, Speech):
            part.waveform.write(path)
            return


def write_trace(result: Result, path: Path) -> None:
    """Write what each step committed, as JSON; positions count from the answer's first token."""
    steps = [
        {
            "positions": record.positions.tolist(),
            "tokens": record.tokens.tolist(),
            "confidences": [round(float(value), 6) for value in record.confidences],
        }
        for record in result.trace
    ]
    canvas = result.canvas
    answer = [] if canvas is None else canvas.ids[slice(*canvas.answer)].tolist()
    data = {"task": result.task, "seconds": result.seconds, "answer": answer, "steps": steps}
    files.write_text(path, json.dumps(data) + "\n")

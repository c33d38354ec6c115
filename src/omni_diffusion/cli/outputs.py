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
    path = name if out is None else out / name if out.is_dir() else out
    if path.suffix.lower() not in FORMATS[kind]:
        what = "a picture" if kind == "image" else "sound"
        raise TaskError(
            f"{path} cannot hold {what}",
            field="out",
            value=str(path),
            fix=f"end it in {' or '.join(FORMATS[kind])}",
        )
    return checked_folder(path)


def checked_folder(path: Path) -> Path:
    """The path itself; raises StorageError where its folder does not exist."""
    if not path.parent.is_dir():
        raise StorageError(
            f"cannot write {path}: no folder {path.parent}", value=str(path), fix="create it first"
        )
    return path


def write_media(parts: Sequence[Part], path: Path) -> bool:
    """Write the first picture or recording of an answer; False if it has none."""
    for part in parts:
        if isinstance(part, Image):
            part.picture.write(path)
            return True
        if isinstance(part, Speech):
            part.waveform.write(path)
            return True
    return False


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

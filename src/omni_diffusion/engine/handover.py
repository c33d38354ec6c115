"""Named files become a conversation, an answer becomes files.

Checks what a person hands in before any model is asked, and says what will be done with it. Knows
tasks by what they take and give; knows no tokens and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.engine.request import Result
from omni_diffusion.errors import MediaError, StorageError, TaskError
from omni_diffusion.io import files
from omni_diffusion.media import PICTURE_FORMATS, SOUND_FORMATS, Picture, Waveform
from omni_diffusion.tasks.catalog import DESCRIBE, HEAR
from omni_diffusion.tasks.infill import box, cloze, inpainting, white
from omni_diffusion.tasks.parts import Draft, PartialImage
from omni_diffusion.tasks.task import Task

FLOOR = 1e-3  # -60 dB of full scale; what never rises above it is taken for silence
FRAME = 0.06  # seconds of speech that take one place of a canvas
FORMATS = {"image": tuple(PICTURE_FORMATS), "speech": tuple(SOUND_FORMATS)}
BOX_HINT = "give left,top,right,bottom in pixels, such as 0,0,32,32"


@dataclass(frozen=True)
class Named:
    """What a person hands in: words, and the paths of files.

    mask: for inpainting, "left,top,right,bottom" in pixels, or the path of a picture that is
    white where the hole is.
    """

    text: str | None = None
    image: Path | None = None
    speech: Path | None = None
    mask: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of text, image and speech are there."""
        given = {"text": self.text, "image": self.image, "speech": self.speech}
        return tuple(kind for kind, value in given.items() if value is not None)


def conversation(task: Task, named: Named) -> tuple[Draft, ...]:
    """What a task is asked, from what was handed in.

    Raises TaskError when that does not fit the task, MediaError for what cannot be read.
    """
    if named.text is not None and not named.text.strip():
        raise TaskError("the text is empty; give some words")
    if named.mask is not None and task.name != "inpaint":
        raise TaskError(f"task {task.name!r} takes no mask; leave it out or use 'inpaint'")
    if task.name == "inpaint":
        return _inpainting(named)
    if task.name == "infill":
        return _infilling(named)
    _check_kinds(task, named.kinds)
    return (Draft("user", (*_words(named), *_media(named))),)


def check_size(asked: Sequence[Draft], places: int) -> None:
    """Refuse speech that no model of so many places can hear, before any work is put into it."""
    for part in (part for draft in asked for part in draft.parts):
        if isinstance(part, Speech) and part.waveform.seconds > places * FRAME:
            raise TaskError(
                f"the speech lasts {part.waveform.seconds:.0f} s, this model hears"
                f" {places * FRAME:.0f} s at most; cut it"
            )


def notes(asked: Sequence[Draft]) -> list[str]:
    """What happens to pictures that are no squares, one line each."""
    found = []
    for part in (part for draft in asked for part in draft.parts):
        picture = part.picture if isinstance(part, Image | PartialImage) else None
        if picture is not None and picture.width != picture.height:
            side = min(picture.width, picture.height)
            found.append(
                f"the picture is {picture.width} x {picture.height}: the model sees the"
                f" {side} x {side} in its middle"
            )
    return found


def read_speech(path: Path) -> Waveform:
    """A recording; raises MediaError when nothing can be heard in it."""
    waveform = Waveform.read(path)
    if float(waveform.samples.abs().max()) < FLOOR:
        raise MediaError(
            f"{path} has no sound above the floor of -60 dB; record it louder or give another"
        )
    return waveform


def read_mask(mask: str, picture: Picture) -> Tensor:
    """A hole bool [H, W] of the picture, from "left,top,right,bottom" or a picture's path."""
    numbers = mask.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        return box(picture, *map(int, numbers))
    if not Path(mask).is_file():
        raise TaskError(f"mask {mask!r} is neither a box nor a file; {BOX_HINT}, or a picture")
    drawn = Picture.read(mask)
    if (drawn.width, drawn.height) != (picture.width, picture.height):
        raise TaskError(
            f"the mask is {drawn.width} x {drawn.height}, the picture {picture.width} x"
            f" {picture.height}; give both the same size"
        )
    hole = white(drawn)
    if not bool(hole.any()):
        raise TaskError(f"mask {mask} has no white part; paint white what is to be made anew")
    return hole


def media_kind(task: Task) -> str | None:
    """Which of "image" and "speech" a task answers with, alone or besides text."""
    if task.name == "inpaint":
        return "image"
    return next((kind for kind in task.answer if kind != "text"), None)


def plan_out(task: Task, out: Path | None) -> Path | None:
    """Where the answer's picture or sound will go; None for a task that answers in text alone.

    Raises TaskError or StorageError now rather than after the work.
    """
    kind = media_kind(task)
    if kind is None:
        if out is not None:
            raise TaskError(f"task {task.name!r} answers in words, on stdout; leave --out away")
        return None
    name = Path(task.name + FORMATS[kind][0])
    path = name if out is None else out / name if out.is_dir() else out
    if path.suffix.lower() not in FORMATS[kind]:
        what = "a picture" if kind == "image" else "sound"
        raise TaskError(f"{path} cannot hold {what}; end it in {' or '.join(FORMATS[kind])}")
    return in_a_folder(path)


def in_a_folder(path: Path) -> Path:
    """The path itself; raises StorageError now when its folder is missing."""
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: no folder {path.parent}; create it first")
    return path


def text_of(parts: Sequence[Part]) -> str:
    """The words of an answer."""
    return "".join(part.text for part in parts if isinstance(part, Text)).strip()


def write_media(parts: Sequence[Part], path: Path) -> bool:
    """Write the answer's picture or sound, whole or not at all; False if it has none."""
    for part in parts:
        if isinstance(part, Image):
            part.picture.write(path)
            return True
        if isinstance(part, Speech):
            part.waveform.write(path)
            return True
    return False


def write_trace(result: Result, path: Path) -> None:
    """What each step committed, as JSON; places count from the answer's first."""
    steps = [
        {
            "places": record.places.tolist(),
            "tokens": record.tokens.tolist(),
            "confidences": [round(float(sure), 6) for sure in record.confidences],
        }
        for record in result.trace
    ]
    canvas = result.canvas
    answer = [] if canvas is None else canvas.ids[slice(*canvas.answer)].tolist()
    data = {"task": result.task, "seconds": result.seconds, "answer": answer, "steps": steps}
    files.write_text(path, json.dumps(data) + "\n")


def _check_kinds(task: Task, kinds: Sequence[str]) -> None:
    wanted = task.inputs or ("text",)
    for kind in wanted:
        if kind not in kinds:
            raise TaskError(f"task {task.name!r} needs {' and '.join(wanted)}; add {_option(kind)}")
    for got in kinds:
        if got not in wanted:
            raise TaskError(
                f"task {task.name!r} takes {' and '.join(wanted)}; leave {_option(got)} away"
            )


def _option(kind: str) -> str:
    return "the words" if kind == "text" else f"--{kind} FILE"


def _words(named: Named) -> tuple[Part, ...]:
    return () if named.text is None else (Text(named.text),)


def _media(named: Named) -> tuple[Part, ...]:
    speech = () if named.speech is None else (Speech(read_speech(named.speech)),)
    image = () if named.image is None else (Image(Picture.read(named.image)),)
    return (*speech, *image)


def _inpainting(named: Named) -> tuple[Draft, ...]:
    if named.image is None or named.mask is None or named.speech is not None:
        raise TaskError(f"task 'inpaint' needs --image FILE and --mask; {BOX_HINT}, or a picture")
    picture = Picture.read(named.image)
    return inpainting(picture, read_mask(named.mask, picture), named.text)


def _infilling(named: Named) -> tuple[Draft, ...]:
    """A text with gaps: about a picture, as what was spoken, or about nothing."""
    if named.text is None or "_" not in named.text:
        raise TaskError("task 'infill' needs words with gaps; write _ for each unknown token")
    if named.image is not None and named.speech is not None:
        raise TaskError("task 'infill' takes --image or --speech, not both; leave one away")
    prompt = {"image": DESCRIBE, "speech": HEAR}
    asked = tuple(Text(prompt[kind]) for kind in named.kinds if kind in prompt)
    return Draft("user", (*asked, *_media(named))), Draft("assistant", cloze(named.text))

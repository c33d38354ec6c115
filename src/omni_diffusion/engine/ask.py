"""From a person's inputs to a request: the one door of command line, demo and server.

Everything that can be checked without a model is checked here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from omni_diffusion.conversation import Conversation, Image, Message, Part, Speech, Text
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TaskError
from omni_diffusion.io import files
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.tasks import catalog, presets
from omni_diffusion.tasks.defaults import override
from omni_diffusion.tasks.infill import box, cloze, drawn_hole, inpainting
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Kind

STDIN = Path("-")
MASK_HINT = "give left,top,right,bottom in pixels, such as 0,0,32,32, or a picture"


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a person gives: text, a picture, a recording, and a mask for inpainting.

    text: for `infill` with _ for each masked token. mask: bool [H, W], True where the picture is to
    be painted.
    """

    text: str | None = None
    image: Picture | None = None
    speech: Waveform | None = None
    mask: Tensor | None = None

    @classmethod
    def read(
        cls,
        text: str | None = None,
        image: Path | None = None,
        speech: Path | None = None,
        mask: str | None = None,
    ) -> Inputs:
        """The same from files.

        mask: "left,top,right,bottom" in pixels, or the path of a picture that is white in the hole.
        A path of "-" is standard input, for one of them. Raises MediaError for what cannot be read
        or is silent, TaskError for a mask that does not fit the picture.
        """
        if [str(path) for path in (image, speech, mask)].count(str(STDIN)) > 1:
            raise TaskError(
                "- stands for two inputs", field="image", fix="give one of them as a file"
            )
        picture = None if image is None else Picture.read(_source(image))
        waveform = None if speech is None else read_speech(speech)
        if mask is None:
            return cls(text, picture, waveform)
        if picture is None:
            raise TaskError("a mask needs a picture", field="image", fix="add the picture")
        return cls(text, picture, waveform, read_mask(mask, picture))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Which of text, image and speech are given."""
        given: dict[Kind, object] = {"text": self.text, "image": self.image, "speech": self.speech}
        return tuple(kind for kind, value in given.items() if value is not None)


def ask(
    task: str | Task,
    inputs: Inputs | Conversation,
    *,
    preset: str | None = None,
    setting: str | None = None,
    max_tokens: int | None = None,
    trace: bool = False,
    id: str | None = None,
    **overrides: Any,
) -> Request:
    """The request of a task for a person's inputs, or for a whole conversation.

    overrides: fields of `SamplingParams` (steps, seed, guidance, ..) over the defaults of model and
    task, or over the preset's. preset, setting, max_tokens, trace, id: as in `Request`. Raises
    TaskError where the inputs do not fit the task, SamplingError for an override out of its range.
    """
    known = catalog.task(task) if isinstance(task, str) else task
    if preset is not None:
        presets.preset(preset).of(setting or known.name)
    override(known.params, overrides)  # refuses unknown names and values before any work
    return Request(
        task,
        conversation(known, inputs) if isinstance(inputs, Inputs) else inputs,
        overrides or None,
        max_tokens=max_tokens,
        preset=preset,
        setting=setting,
        trace=trace,
        id=id,
    )


def conversation(task: Task, inputs: Inputs) -> tuple[Message, ...]:
    """The conversation of a task for a person's inputs; raises TaskError where they do not fit."""
    if inputs.text is not None and not inputs.text.strip():
        raise TaskError("the text is empty", field="text", value=inputs.text, fix="give some words")
    if inputs.mask is not None and task.partial != "image":
        raise TaskError(
            f"task {task.name!r} takes no mask", field="mask", fix="omit it or use 'inpaint'"
        )
    if task.partial == "image":
        return _inpainting(task, inputs)
    if task.partial == "text":
        return _infilling(task, inputs)
    _check_kinds(task, inputs.kinds)
    text = () if inputs.text is None else (Text(inputs.text),)
    return (Message("user", (*text, *_media(inputs))),)


def read_speech(path: Path) -> Waveform:
    """A recording; raises MediaError for one in which nothing can be heard."""
    waveform = Waveform.read(_source(path))
    waveform.check_heard(str(path))
    return waveform


def read_mask(mask: str, picture: Picture) -> Tensor:
    """The hole, bool [H, W], of "left,top,right,bottom" or of a mask's path."""
    hole = read_box(mask, picture)
    if hole is not None:
        return hole
    if mask != str(STDIN) and not files.exists(mask):
        raise TaskError(
            f"mask {mask!r} is neither a box nor a file", field="mask", value=mask, fix=MASK_HINT
        )
    return fitting_hole(drawn_hole(_source(Path(mask)), f"mask {mask}"), picture, mask)


def read_box(mask: str, picture: Picture) -> Tensor | None:
    """The hole, bool [H, W], of "left,top,right,bottom"; None for other text."""
    numbers = mask.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        return box(picture, *map(int, numbers))
    return None


def fitting_hole(hole: Tensor, picture: Picture, mask: str) -> Tensor:
    """The hole itself, bool [H, W]; raises TaskError unless it has the size of the picture."""
    height, width = hole.shape
    if (width, height) != (picture.width, picture.height):
        raise TaskError(
            f"the mask is {width} x {height}, the picture {picture.width} x {picture.height}",
            field="mask",
            value=mask,
            fix="give both the same size, as they look when their EXIF rotation is applied",
        )
    return hole


def _source(path: Path) -> Path | BinaryIO:
    """The file of a path; "-" is standard input."""
    return sys.stdin.buffer if path == STDIN else path


def _check_kinds(task: Task, kinds: tuple[Kind, ...]) -> None:
    needed = task.inputs or ("text",)
    for kind in needed:
        if kind not in kinds:
            raise TaskError(
                f"task {task.name!r} needs {' and '.join(needed)}", field=kind, fix=f"add {kind}"
            )
    for kind in kinds:
        if kind not in needed:
            raise TaskError(
                f"task {task.name!r} takes {' and '.join(needed)}", field=kind, fix=f"omit {kind}"
            )


def _media(inputs: Inputs) -> tuple[Part, ...]:
    speech = () if inputs.speech is None else (Speech(inputs.speech),)
    image = () if inputs.image is None else (Image(inputs.image),)
    return (*speech, *image)


def _inpainting(task: Task, inputs: Inputs) -> tuple[Message, ...]:
    if inputs.speech is not None:
        raise TaskError(f"task {task.name!r} takes no speech", field="speech", fix="omit speech")
    if inputs.image is None or inputs.mask is None:
        lacking = "image" if inputs.image is None else "mask"
        raise TaskError(f"task {task.name!r} needs image and mask", field=lacking, fix=MASK_HINT)
    return inpainting(inputs.image, inputs.mask, inputs.text)


def _infilling(task: Task, inputs: Inputs) -> tuple[Message, ...]:
    """A text with gaps: the caption of a picture, the transcript of a recording, or alone."""
    if inputs.text is None or "_" not in inputs.text:
        raise TaskError(
            f"task {task.name!r} needs a text with gaps",
            field="text",
            value=inputs.text,
            fix="write _ for each masked token",
        )
    if inputs.image is not None and inputs.speech is not None:
        raise TaskError(
            f"task {task.name!r} takes image or speech, not both", field="speech", fix="omit one"
        )
    prompts: dict[Kind, str] = {"image": catalog.DESCRIBE, "speech": catalog.HEAR}
    prompt = tuple(Text(prompts[kind]) for kind in inputs.kinds if kind in prompts)
    answer = Message("assistant", cloze(inputs.text))
    return Message("user", (*prompt, *_media(inputs))), answer

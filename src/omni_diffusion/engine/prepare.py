"""What comes before and after denoising: encode and lay out a request, decode its answer.

Pure functions of a request and a model; the engine runs them on worker threads.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import (
    Conversation,
    Image,
    Message,
    Speech,
    Text,
)
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TaskError
from omni_diffusion.media import SPEECH_RATE
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog, presets
from omni_diffusion.tasks.chunking import spoken_passages
from omni_diffusion.tasks.defaults import override
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.read import Answer, read
from omni_diffusion.tasks.render import Prepared, render
from omni_diffusion.tasks.task import Task


@torch.no_grad()
def prepare(request: Request, model: OmniModel) -> Prepared:
    """Encode a request's media, once, and lay it out; raises an OmniError for what does not fit."""
    task = resolve_task(request)
    _check_speech(request.conversation, model)
    turns = encode(request.conversation, model.codecs)
    overrides, max_tokens = request.params, request.max_tokens
    if request.preset is not None:
        setting = presets.preset(request.preset).of(request.setting or task.name)
        params, max_tokens = setting.settle(turns, model, max_tokens)
        overrides = override(params, overrides)
    prepared = render(task, turns, model, overrides, max_tokens=max_tokens)
    return replace(prepared, notes=_crop_notes(request.conversation))


@torch.no_grad()
def decode(canvas: Canvas, prepared: Prepared, model: OmniModel) -> Answer:
    """The answer on a denoised canvas, with the notes of its request first."""
    answer = read(canvas, prepared, model)
    return replace(answer, notes=(*prepared.notes, *answer.notes))


def resolve_task(request: Request) -> Task:
    """The task of a request; raises TaskError for a name that is not in the catalog."""
    return catalog.task(request.task) if isinstance(request.task, str) else request.task


def passage_requests(request: Request, model: OmniModel) -> list[Request]:
    """A request for each passage of a text that is too long for one canvas, else the request.

    A length or a trace is asked of one canvas, so such a request stays whole.
    """
    task = resolve_task(request)
    if not task.chunked or request.max_tokens is not None or request.trace:
        return [request]
    parts = [part for message in request.conversation for part in message.parts]
    if len(request.conversation) != 1 or not all(isinstance(part, Text) for part in parts):
        return [request]
    text = "".join(part.text for part in parts if isinstance(part, Text))
    passages = spoken_passages(
        text, model, task=task, max_positions=model.config.generation.longest
    )
    if len(passages) == 1:
        return [request]
    return [
        replace(request, conversation=(Message("user", (Text(passage),)),), id=None)
        for passage in passages
    ]


def _check_speech(conversation: Conversation, model: OmniModel) -> None:
    """Refuse a user's recording in which nothing can be heard, and one longer than a canvas."""
    for part in (part for message in conversation for part in message.parts):
        if not isinstance(part, Speech):
            continue
        part.waveform.check_heard()
        seconds = part.waveform.seconds
        frames = model.codecs.hearing.frames(int(seconds * SPEECH_RATE))
        if frames > model.max_positions:
            raise TaskError(
                f"the speech lasts {seconds:.0f} s and takes {frames} tokens; this model has"
                f" {model.max_positions}",
                field="speech",
                value=seconds,
                fix="cut it",
            )


def _crop_notes(conversation: Conversation) -> tuple[str, ...]:
    """A note for each picture that is not square, since the codec encodes its centre.

    A picture with a hole has a note of its own, by `tasks.read`.
    """
    pictures = [
        part.picture
        for message in conversation
        for part in message.parts
        if isinstance(part, Image)
    ]
    return tuple(
        f"the picture is {picture.width} x {picture.height}: the model sees the"
        f" {min(picture.width, picture.height)} x {min(picture.width, picture.height)} in its"
        " middle"
        for picture in pictures
        if picture.width != picture.height
    )

"""The tasks by name.

Prompts and sampling are those of the published code; caption and inpaint, which it lacks, are ours.
"""

from __future__ import annotations

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.io.config import nearest
from omni_diffusion.tasks.defaults import Length
from omni_diffusion.tasks.task import Task

DRAW = "Generate an image based on the provided text description.\n"
HEAR = "Convert the speech to text.\n"
SPEAK = "Convert the text to speech.\n"
DESCRIBE = "Describe the image.\n"

IMAGE_SAMPLING = SamplingParams(repetition_penalty=1.2, position_penalty=2.0)
SPEECH_SAMPLING = SamplingParams(repetition_penalty=1.2)

TASKS = (
    Task(
        name="chat",
        title="A conversation, answered in text",
        answer=("text",),
    ),
    Task(
        name="asr",
        title="Speech to text",
        answer=("text",),
        template=HEAR + "{speech}",
        null_prompt=HEAR,
        length=Length(0.2, of="speech"),
        pace=0.5,
    ),
    Task(
        name="tts",
        title="Text to speech",
        answer=("speech",),
        template=SPEAK + "{text}",
        null_prompt=SPEAK,
        length=Length(3.5, of="text"),
        params=SPEECH_SAMPLING,
        pace=0.5,
        chunked=True,
    ),
    Task(
        name="t2i",
        title="Text to image",
        answer=("image",),
        template=DRAW + "{text}",
        null_prompt=DRAW,
        params=IMAGE_SAMPLING,
    ),
    Task(
        name="caption",
        title="Image to text",
        answer=("text",),
        template=DESCRIBE + "{image}",
        null_prompt=DESCRIBE,
        length=Length(extra=64),
    ),
    Task(
        name="vqa",
        title="A question about an image",
        answer=("text",),
        template="{text}\n{image}",
        length=Length(extra=64),
    ),
    Task(
        name="s2i",
        title="Spoken description to image",
        answer=("image",),
        system="Please generate an image based on the input audio.",
        template="\n{speech}",
        params=SamplingParams(repetition_penalty=1.5, position_penalty=2.0, guidance=2.0),
    ),
    Task(
        name="svqa",
        title="A spoken question about an image, answered in text and speech",
        answer=("text", "speech"),
        system="Please response the input audio based on the given image.",
        template="{speech}\n{image}",
        params=SPEECH_SAMPLING,
    ),
    Task(
        name="sqa",
        title="A spoken question, answered in text and speech",
        answer=("text", "speech"),
        system="Please response the input audio.",
        template="\n{speech}",
        params=SPEECH_SAMPLING,
    ),
    Task(
        name="inpaint",
        title="Repaint a part of an image",
        answer=(),
        template=DRAW + "{text}",
        null_prompt=DRAW,
        optional=("text",),
        params=IMAGE_SAMPLING,
        partial="image",
    ),
    Task(
        name="infill",
        title="Fill the masked parts of a conversation",
        answer=(),
        partial="text",
    ),
)
CATALOG = {task.name: task for task in TASKS}


def task(name: str) -> Task:
    """The task called `name`; raises TaskError with the nearest names."""
    if name not in CATALOG:
        raise TaskError(
            f"no task is called {name!r}", field="task", value=name, fix=nearest(name, CATALOG)
        )
    return CATALOG[name]

"""The tasks by name. Prompts are those of the published model; caption and inpaint are our own."""

from __future__ import annotations

import difflib

from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.task import Task

DRAW = "Generate an image based on the provided text description.\n"
HEAR = "Convert the speech to text.\n"
SPEAK = "Convert the text to speech.\n"
DESCRIBE = "Describe the image.\n"

CATALOG: dict[str, Task] = {
    task.name: task
    for task in (
        Task("chat", "Answer in text", ("text",)),
        Task("asr", "Speech to text", ("text",), HEAR + "{speech}", null_prompt=HEAR),
        Task("tts", "Text to speech", ("speech",), SPEAK + "{text}", null_prompt=SPEAK),
        Task("t2i", "Text to image", ("image",), DRAW + "{text}", null_prompt=DRAW),
        Task("caption", "Image to text", ("text",), DESCRIBE + "{image}", null_prompt=DESCRIBE),
        Task("vqa", "Question about an image", ("text",), "{text}\n{image}"),
        Task(
            "s2i",
            "Spoken description to image",
            ("image",),
            "\n{speech}",
            "Please generate an image based on the input audio.",
        ),
        Task(
            "svqa",
            "Spoken question about an image",
            ("text", "speech"),
            "{speech}\n{image}",
            "Please response the input audio based on the given image.",
        ),
        Task(
            "sqa",
            "Spoken question",
            ("text", "speech"),
            "\n{speech}",
            "Please response the input audio.",
        ),
        Task(
            "inpaint",
            "Paint a part of an image anew",
            (),
            DRAW + "{text}",
            null_prompt=DRAW,
            optional=("text",),
        ),
        Task("infill", "Fill every blank of a conversation", ()),
    )
}


def task(name: str) -> Task:
    """The task called `name`; raises TaskError with the nearest names."""
    if name not in CATALOG:
        near = difflib.get_close_matches(name, CATALOG, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"give one of {', '.join(CATALOG)}"
        raise TaskError(f"no task is called {name!r}; {hint}")
    return CATALOG[name]

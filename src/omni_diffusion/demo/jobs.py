"""What the demo shows: tasks with the inputs that come with the package, or with a person's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.engine.handover import Named
from omni_diffusion.tasks import catalog

INPUTS = Path(__file__).parent / "inputs"


@dataclass(frozen=True)
class Job:
    """One card of the demo: a task, its inputs, and what is worth saying about them.

    spoken: the words of a recording; right: a right answer. In a text for "infill", words in
    brackets are hidden from the model, all but the number of their tokens.
    """

    task: str
    named: Named
    spoken: str | None = None
    right: str | None = None
    own: bool = False

    @property
    def key(self) -> str:
        """Names its files and its place on the page."""
        return f"your-{self.task}" if self.own else self.task


# All scenes hold a combination that training never showed.
SHIPPED = (
    Job("t2i", Named("a bus to the left of a penguin on a yellow background")),
    Job(
        "caption",
        Named(image=INPUTS / "penguin-cow.png"),
        right="a penguin to the left of a cow on a blue background",
    ),
    Job(
        "vqa",
        Named("what is to the right of the penguin?", INPUTS / "penguin-cow.png"),
        right="a cow",
    ),
    Job("asr", Named(speech=INPUTS / "dog.ogg"), right="a dog on a white background"),
    Job("tts", Named("a picture of two apples on blue")),
    Job("s2i", Named(speech=INPUTS / "cat-ball.ogg"), spoken="a cat below a ball, gray background"),
    Job(
        "svqa",
        Named(image=INPUTS / "cameras.png", speech=INPUTS / "how-many-cameras.ogg"),
        spoken="how many cameras are there?",
        right="three",
    ),
    Job(
        "sqa",
        Named(speech=INPUTS / "color-of-elephant.ogg"),
        spoken="what color is an elephant?",
        right="gray",
    ),
    Job("chat", Named("what is a cake?"), right="a food"),
    Job("inpaint", Named(image=INPUTS / "houses.png", mask="32,32,64,64"), right="a fourth house"),
    Job(
        "infill",
        Named(
            "a [penguin] to the left of a cow on a [blue] background", INPUTS / "penguin-cow.png"
        ),
        right="a penguin to the left of a cow on a blue background",
    ),
)


def yours(named: Named) -> list[Job]:
    """A job for every task that takes what a person named, and nothing else."""
    return [
        Job(task.name, _only(named, task.inputs or ("text",)), own=True)
        for task in catalog.TASKS
        if task.answer and set(task.inputs or ("text",)) <= set(named.kinds)
    ]


def hidden(job: Job, codec: TextCodec) -> Job:
    """The job with the bracketed words of an infill as gaps: one underscore a token."""
    if job.task != "infill" or job.named.text is None:
        return job
    text = re.sub(
        r" \[(.+?)\]", lambda word: " " + "_" * len(codec.encode(" " + word[1])), job.named.text
    )
    return replace(job, named=replace(job.named, text=text))


def _only(named: Named, kinds: Sequence[str]) -> Named:
    """The inputs of these kinds alone."""
    return Named(**{kind: getattr(named, kind) for kind in kinds})

"""The jobs of the demo: tasks with the inputs that come with the package, or with a user's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.tasks import catalog

INPUTS = Path(__file__).parent / "inputs"


@dataclass(frozen=True)
class InputFiles:
    """The inputs of a task: text, the paths of a picture and a recording, and a mask.

    mask: as `Inputs.read` takes it.
    """

    text: str | None = None
    image: Path | None = None
    speech: Path | None = None
    mask: str | None = None

    def read(self) -> Inputs:
        """The inputs themselves; raises MediaError or TaskError as `Inputs.read` does."""
        return Inputs.read(self.text, self.image, self.speech, self.mask)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of text, image and speech are given."""
        given = {"text": self.text, "image": self.image, "speech": self.speech}
        return tuple(kind for kind, value in given.items() if value is not None)


@dataclass(frozen=True)
class Job:
    """One card of the demo: a task, its inputs, and notes about them.

    spoken: the words of a recording. right: a right answer. In a text with gaps, words in brackets
    are masked; the model knows the number of their tokens alone.
    """

    task: str
    inputs: InputFiles
    spoken: str | None = None
    right: str | None = None
    yours: bool = False

    @property
    def key(self) -> str:
        """The name of its files and of its card."""
        return f"your-{self.task}" if self.yours else self.task


# Every scene holds a combination that was held out of training.
DEMO_JOBS = (
    Job("t2i", InputFiles("a bus to the left of a penguin on a yellow background")),
    Job(
        "caption",
        InputFiles(image=INPUTS / "penguin-cow.png"),
        right="a penguin to the left of a cow on a blue background",
    ),
    Job(
        "vqa",
        InputFiles("what is to the right of the penguin?", INPUTS / "penguin-cow.png"),
        right="a cow",
    ),
    Job("asr", InputFiles(speech=INPUTS / "dog.ogg"), right="a dog on a white background"),
    Job("tts", InputFiles("a picture of two apples on blue")),
    Job(
        "s2i",
        InputFiles(speech=INPUTS / "cat-ball.ogg"),
        spoken="a cat below a ball, gray background",
    ),
    Job(
        "svqa",
        InputFiles(image=INPUTS / "cameras.png", speech=INPUTS / "how-many-cameras.ogg"),
        spoken="how many cameras are there?",
        right="three",
    ),
    Job(
        "sqa",
        InputFiles(speech=INPUTS / "color-of-elephant.ogg"),
        spoken="what color is an elephant?",
        right="gray",
    ),
    Job("chat", InputFiles("what is a cake?"), right="a food"),
    Job(
        "inpaint",
        InputFiles(image=INPUTS / "houses.png", mask="32,32,64,64"),
        right="a fourth house",
    ),
    Job(
        "infill",
        InputFiles(
            "a [penguin] to the left of a cow on a [blue] background", INPUTS / "penguin-cow.png"
        ),
        right="a penguin to the left of a cow on a blue background",
    ),
)


def yours(inputs: InputFiles) -> list[Job]:
    """A job for every task whose inputs are all given, with those inputs alone."""
    return [
        Job(task.name, _only(inputs, task.inputs or ("text",)), yours=True)
        for task in catalog.TASKS
        if task.answer and set(task.inputs or ("text",)) <= set(inputs.kinds)
    ]


def with_gaps(job: Job, codec: TextCodec) -> Job:
    """The job with bracketed words as gaps: one underscore for each token."""
    if catalog.task(job.task).partial != "text" or job.inputs.text is None:
        return job
    text = re.sub(
        r" \[(.+?)\]", lambda word: " " + "_" * len(codec.encode(" " + word[1])), job.inputs.text
    )
    return replace(job, inputs=replace(job.inputs, text=text))


def _only(inputs: InputFiles, kinds: Sequence[str]) -> InputFiles:
    """The inputs of these kinds alone."""
    return InputFiles(**{kind: getattr(inputs, kind) for kind in kinds})

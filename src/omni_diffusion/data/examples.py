"""From a manifest's sample to the canvases that training masks, laid by the `render` of inference.

Each answer of a conversation is an exercise of its own: all before it is given, as it will be when
the model is asked. What is too long for the model is told by its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TypeVar

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Message, Text
from omni_diffusion.data import manifest
from omni_diffusion.data.manifest import Entry, Place, Sample
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.parts import Turn
from omni_diffusion.tasks.render import Model, lay
from omni_diffusion.tasks.task import Answer, Task
from omni_diffusion.vocab import Vocabulary

P = TypeVar("P")


@dataclass(frozen=True)
class Exercise:
    """What a task is asked, encoded, and its true answer in the last turn."""

    place: Place
    task: Task
    turns: tuple[Turn, ...]

    def canvas(
        self, vocabulary: Vocabulary, text: TextCodec, *, tail: int = 0, null: bool = False
    ) -> Canvas:
        """The canvas with its answer given and `tail` pads behind it, a lone picture without any.

        null: ask the task's null prompt instead, which guidance needs. Raises DataError.
        """
        pads = 0 if self.task.answer == ("image",) else tail
        with _told(self.place):
            return lay(self.task, self.turns, vocabulary, text, tail=pads, null=null)


def exercises(sample: Sample, model: Model) -> tuple[Exercise, ...]:
    """The exercises of a sample, one for each answer, its media encoded once.

    A task's own words are laid by the task; other conversations word for word. Blank space between
    the words of an answer and a tag parts them in the manifest and is not learned. Raises DataError
    naming file and line.
    """
    messages = [
        Message("assistant", bare(message.parts)) if message.role == "assistant" else message
        for message in sample.conversation()
    ]
    with _told(sample.place):
        turns = encode(messages, model.codecs)
    return of_turns(sample.place, sample.entries, turns, model.answers)


def of_turns(
    place: Place, entries: Sequence[Entry], turns: Sequence[Turn], answers: Mapping[str, Answer]
) -> tuple[Exercise, ...]:
    """The exercises of a sample whose media are encoded: its words with tags, and its turns."""
    prompt = prompts.recognise(entries, answers)
    if prompt is not None:
        user, answer = turns[-2:]
        words = () if prompt.text is None else (Text(prompt.text),)
        media = tuple(part for part in user.parts if not isinstance(part, Text))
        return (Exercise(place, prompt.task, (replace(user, parts=(*words, *media)), answer)),)
    return tuple(
        Exercise(place, prompts.open_task(prompts.kinds(entry)), tuple(turns[: at + 1]))
        for at, entry in enumerate(entries)
        if entry.role == "assistant"
    )


def canvases(
    path: str | Path,
    model: Model,
    root: str | Path | None = None,
    *,
    tails: Iterable[int] | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[tuple[Exercise, Canvas]]:
    """Every exercise of a manifest with its canvas, line by line.

    root: as for `manifest.read`. tails: pads behind each answer, none by default. report: told what
    is wrong with a line, which is then left out; without it the first such line raises DataError.
    """
    pads = iter(repeat(0) if tails is None else tails)
    for place, line in manifest.lines(path):
        try:
            sample = manifest.sample_of(line, place, root)
            laid = [
                (each, each.canvas(model.vocabulary, model.codecs.text, tail=next(pads)))
                for each in exercises(sample, model)
            ]
            for _, canvas in laid:
                if canvas.length > model.max_positions:
                    raise DataError(
                        f"{place}: the sample takes {canvas.length} places, the model has"
                        f" {model.max_positions}; shorten or part it"
                    )
        except DataError as error:
            if report is None:
                raise
            report(str(error))
            continue
        yield from laid


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Raise what befalls a sample as a DataError that names its line."""
    try:
        yield
    except OmniError as error:
        raise DataError(f"{place}: {error}") from error


def bare(parts: Sequence[P]) -> tuple[P | Text, ...]:
    """An answer's parts without the blank space between words and media."""
    if len(parts) == 1:
        return tuple(parts)
    stripped = [Text(part.text.strip()) if isinstance(part, Text) else part for part in parts]
    return tuple(part for part in stripped if part != Text(""))

"""From a manifest sample to the canvases that training masks, by the same layout as inference.

Each answer of a conversation is a training example of its own. All before it is given, as it will
be at inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Message, Text, Turn
from omni_diffusion.data.manifest import ManifestSample, SampleMessage, SourceLine
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.prompts import conversation_task, detect_task, part_kinds
from omni_diffusion.tasks.render import Model, layout_training
from omni_diffusion.tasks.task import AnswerKinds, Task
from omni_diffusion.vocab import Vocabulary

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class TrainingExample:
    """A task with its encoded conversation; the last turn is the true answer."""

    source: SourceLine
    task: Task
    turns: tuple[Turn, ...]

    def canvas(
        self, vocabulary: Vocabulary, text: TextCodec, *, tail: int = 0, null: bool = False
    ) -> Canvas:
        """The canvas with its answer given.

        tail: pad tokens behind the answer; none if the answer is a picture alone. null: replace the
        user's parts by the task's null prompt, which guidance needs. Raises DataError.
        """
        pads = 0 if self.task.answer == ("image",) else tail
        with _located(self.source):
            return layout_training(self.task, self.turns, vocabulary, text, tail=pads, null=null)


def training_examples(sample: ManifestSample, model: Model) -> tuple[TrainingExample, ...]:
    """The examples of a sample, one for each answer; its media are encoded once.

    Raises DataError naming file and line.
    """
    messages = [
        Message("assistant", strip_answer(message.parts))
        if message.role == "assistant"
        else message
        for message in sample.conversation()
    ]
    with _located(sample.source):
        turns = encode(messages, model.codecs)
    return examples_from_turns(sample.source, sample.messages, turns, model.generation.answers)


def examples_from_turns(
    source: SourceLine,
    messages: Sequence[SampleMessage],
    turns: Sequence[Turn],
    answers: Mapping[str, AnswerKinds],
) -> tuple[TrainingExample, ...]:
    """The examples of an encoded sample.

    A prompt that fits a task's template becomes that task's example; any other conversation is laid
    out word for word, with one example per answer. answers: by task name, what a model's answer is
    made of where it differs from the task's own.
    """
    detected = detect_task(messages, answers)
    if detected is not None:
        user, answer = turns[-2:]
        text = () if detected.text is None else (Text(detected.text),)
        media = tuple(part for part in user.parts if not isinstance(part, Text))
        prompt = replace(user, parts=(*text, *media))
        return (TrainingExample(source, detected.task, (prompt, answer)),)
    return tuple(
        TrainingExample(source, conversation_task(part_kinds(message)), tuple(turns[: at + 1]))
        for at, message in enumerate(messages)
        if message.role == "assistant"
    )


def strip_answer(parts: Sequence[PartT]) -> tuple[PartT | Text, ...]:
    """An answer's parts without the white space between text and media.

    That white space only separates text and tag in the manifest; the model does not learn it.
    """
    if len(parts) == 1:
        return tuple(parts)
    stripped = [Text(part.text.strip()) if isinstance(part, Text) else part for part in parts]
    return tuple(part for part in stripped if part != Text(""))


@contextmanager
def _located(source: SourceLine) -> Iterator[None]:
    """Raise an error of a sample as a DataError that names its line."""
    try:
        yield
    except OmniError as error:
        raise DataError(f"{source}: {error}") from error

"""A conversation becomes a canvas: `render` for inference, `lay` for training, both by `arrange`.

Media are encoded here, the answer's length is set, and guidance gets its empty prompt. Global ids
are made in `layout` and unmade in `read`, nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.arrange import arrange
from omni_diffusion.tasks.defaults import Length
from omni_diffusion.tasks.encode import Spoken, encode
from omni_diffusion.tasks.layout import SPEECH_AT, Section
from omni_diffusion.tasks.parts import Frames, Turn
from omni_diffusion.tasks.task import Answer, Task
from omni_diffusion.vocab import Vocabulary

PUBLISHED_SPEECH_AT = 0.2  # where the published code lets speech begin; the paper says 0.25


class Model(Protocol):
    """What `render` and `read` ask of a model."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The unified token space."""

    @property
    def codecs(self) -> CodecSuite:
        """Media to codes and frames."""

    @property
    def max_positions(self) -> int:
        """How many places a canvas may have."""

    @property
    def lengths(self) -> Mapping[str, tuple[float, int]]:
        """By task name, factor and extra where the model's answers need another length."""

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By task name, what an answer is made of where it differs from the task's own."""

    @property
    def sampling(self) -> Mapping[str, SamplingParams]:
        """By task name, where the model wants other sampling parameters."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request laid out: all that denoising and reading need.

    null: the canvas of guidance's unconditional branch, whose answer block is the same; None
    without guidance. params: what was asked for, or the defaults of model and task; steps that
    were left open are those of the task's pace.
    """

    task: Task
    canvas: Canvas
    null: Canvas | None
    params: SamplingParams
    sections: tuple[Section, ...]


def render(
    task: Task,
    conversation: Sequence[Spoken],
    model: Model,
    params: SamplingParams | None = None,
    *,
    length: int | None = None,
) -> Prepared:
    """Lay a conversation out with a blank or partly known answer.

    length: places of a text or speech answer, instead of the task's own rule. Raises TaskError
    when the conversation does not fit the task, has nothing to fill, or is too long.
    """
    task = task.answering(model.answers)
    turns = encode(conversation, model.codecs)
    if turns and turns[-1].role == "assistant" and not any(turn.open for turn in turns):
        raise TaskError("nothing is blank; let the conversation end with the user, or add a Blank")
    chosen = params or model.sampling.get(task.name, task.params)
    lay_out = partial(
        arrange,
        task,
        turns,
        model.vocabulary,
        model.codecs.text,
        length=_length(task, turns, model, length),
        cells=model.codecs.image.config.tokens(model.codecs.image.config.generation_size),
        scaffold=chosen.constrain,
        speech_at=PUBLISHED_SPEECH_AT if chosen.rules == "upstream" else SPEECH_AT,
    )
    laid = lay_out()
    if laid.canvas.length > model.max_positions:
        raise TaskError(
            f"the conversation takes {laid.canvas.length} places, of them"
            f" {laid.canvas.answer[0]} before the answer; the model has {model.max_positions},"
            " shorten it"
        )
    chosen = with_steps(chosen, task, laid.canvas.blanks)
    null = lay_out(null=True).canvas if chosen.guidance else None
    return Prepared(task, laid.canvas, null, chosen, laid.sections)


def with_steps(params: SamplingParams, task: Task, blanks: int) -> SamplingParams:
    """The parameters with steps: as given, or at the task's pace for so many blanks."""
    if params.steps is not None:
        return params
    return replace(params, steps=max(1, math.ceil(task.pace * blanks)))


def lay(
    task: Task,
    turns: Sequence[Turn],
    vocabulary: Vocabulary,
    text: TextCodec,
    *,
    length: int | None = None,
    tail: int = 0,
    least: int = 0,
    null: bool = False,
) -> Canvas:
    """The canvas of a training sample: `turns` end with the assistant's true answer.

    length: places of the answer; by default as few as hold it and `tail` pads, but not fewer
    than `least`. null: replace the user's words by the task's null prompt, to teach what guidance
    asks.
    """
    laid = arrange(task, turns, vocabulary, text, length=length, tail=tail, least=least, null=null)
    return laid.canvas


def room(
    task: Task,
    turns: Sequence[Turn],
    lengths: Mapping[str, tuple[float, int]],
    text: TextCodec,
) -> int:
    """The places of a blank text or speech answer: the task's rule with a model's own numbers."""
    rule = task.length
    if task.name in lengths:
        factor, extra = lengths[task.name]
        rule = Length(factor, extra, rule.of)
    heard = [part for turn in turns if turn.role == "user" for part in turn.parts]
    said = [part.text for part in heard if isinstance(part, Text)] if rule.of == "text" else []
    return rule.places(
        {
            "text": sum(len(text.encode(each)) for each in said),
            "speech": sum(len(part.frames) for part in heard if isinstance(part, Frames)),
        }
    )


def _length(task: Task, turns: Sequence[Turn], model: Model, asked: int | None) -> int:
    """The answer's places: as asked, or as many as it has room for."""
    if asked is None:
        return room(task, turns, model.lengths, model.codecs.text)
    if not 1 <= asked <= model.max_positions:
        raise TaskError(
            f"an answer of {asked} places was asked for; give 1 to {model.max_positions}"
        )
    return asked

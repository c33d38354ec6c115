"""From a conversation to a canvas: `render` for inference, `layout_training` for training.

Both go through `arrange`. `render` encodes the media, sets the length of the answer and lays out
guidance's null prompt beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Conversation, Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.io.config import shown
from omni_diffusion.tasks.arrange import arrange
from omni_diffusion.tasks.defaults import GenerationConfig, Overrides, answer_length, override
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.layout import SPEECH_AT, SegmentSpan
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Vocabulary

UPSTREAM_SPEECH_AT = 0.2  # where speech begins in the published code; the paper says 0.25


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
        """The longest canvas, in tokens."""

    @property
    def generation(self) -> GenerationConfig:
        """Where the model departs from the tasks' defaults."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request laid out: all that denoising and reading need.

    uncond: the canvas of guidance's unconditional branch, with the same answer block; None
    without guidance. params: the defaults of model and task with the request's overrides; steps
    that were left open follow the task's pace. notes: what happens to the input, a line each.
    """

    task: Task
    canvas: Canvas
    uncond: Canvas | None
    params: SamplingParams
    spans: tuple[SegmentSpan, ...]
    notes: tuple[str, ...] = ()


def render(
    task: Task,
    conversation: Conversation,
    model: Model,
    overrides: Overrides = None,
    *,
    max_tokens: int | None = None,
) -> Prepared:
    """Lay a conversation out with a masked or partly known answer.

    overrides: over the sampling parameters of model and task. max_tokens: length of a text or
    speech answer, instead of the task's rule. Raises TaskError when the conversation does not fit
    the task, has nothing to fill, or is too long.
    """
    task = task.answering(model.generation.answers)
    turns = encode(conversation, model.codecs)
    if turns and turns[-1].role == "assistant" and not any(turn.open for turn in turns):
        raise TaskError(
            "no token is masked",
            field="conversation",
            fix="let the conversation end with the user, or add a Blank",
        )
    params = override(sampling_defaults(task, model), overrides)
    lay_out = partial(
        arrange,
        task,
        turns,
        model.vocabulary,
        model.codecs.text,
        length=_length(task, turns, model, max_tokens),
        cells=model.codecs.image.config.tokens(model.codecs.image.config.generation_size),
        scaffold=params.constrain,
        speech_at=UPSTREAM_SPEECH_AT if params.rules == "upstream" else SPEECH_AT,
    )
    arranged = lay_out()
    if arranged.canvas.length > model.max_positions:
        raise TaskError(
            f"the conversation takes {arranged.canvas.length} tokens, of them"
            f" {arranged.canvas.answer[0]} before the answer; the model has {model.max_positions}",
            field="conversation",
            value=arranged.canvas.length,
            fix="shorten it",
        )
    params = with_steps(params, task, arranged.canvas.blanks)
    uncond = lay_out(null=True).canvas if params.guidance else None
    return Prepared(task, arranged.canvas, uncond, params, arranged.spans)


def sampling_defaults(task: Task, model: Model) -> SamplingParams:
    """How a model samples a task where nothing is asked: its own parameters, else the task's."""
    return model.generation.sampling.get(task.name, task.params)


def with_steps(params: SamplingParams, task: Task, blanks: int) -> SamplingParams:
    """The parameters with steps: as given, or at the task's pace for so many masked tokens."""
    if params.steps is not None:
        return params
    return replace(params, steps=max(1, math.ceil(task.pace * blanks)))


def layout_training(
    task: Task,
    turns: Sequence[Turn],
    vocabulary: Vocabulary,
    text: TextCodec,
    *,
    length: int | None = None,
    tail: int = 0,
    min_length: int = 0,
    null: bool = False,
) -> Canvas:
    """The canvas of a training sample: `turns` end with the assistant's true answer.

    length: tokens of the answer; by default as few as hold it and `tail` pads, but not fewer than
    `min_length`. null: replace the user's parts by the task's null prompt, which guidance needs.
    """
    arranged = arrange(
        task, turns, vocabulary, text, length=length, tail=tail, min_length=min_length, null=null
    )
    return arranged.canvas


def _length(task: Task, turns: Sequence[Turn], model: Model, max_tokens: int | None) -> int:
    if max_tokens is None:
        other = model.generation.lengths.get(task.name)
        return answer_length(task.length, turns, model.codecs.text, other)
    whole = hasattr(max_tokens, "__index__") and not isinstance(max_tokens, bool)
    if not whole or not 1 <= max_tokens <= model.max_positions:
        raise TaskError(
            f"an answer of {shown(max_tokens)} tokens",
            field="max_tokens",
            value=max_tokens,
            fix=f"give a whole number from 1 to {model.max_positions}",
        )
    return int(max_tokens)

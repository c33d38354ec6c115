"""A request's life: what is asked, how far it is, what came of it.

A Request is the user's and never changes; a Running is the engine's alone; a Result is handed back.
Knows no model and no queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Part
from omni_diffusion.diffusion.sampler import Commit, SamplingParams
from omni_diffusion.engine import stream
from omni_diffusion.engine.runner import Row
from omni_diffusion.tasks.encode import Spoken
from omni_diffusion.tasks.read import Answer
from omni_diffusion.tasks.render import Prepared
from omni_diffusion.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of the engine.

    task: a task, or its name in the catalog. params: None takes the defaults of model and task.
    length: places of a text or speech answer, instead of the task's rule. trace: keep a record
    of every step. id: None lets the engine choose one.
    """

    task: str | Task
    conversation: Sequence[Spoken]
    params: SamplingParams | None = None
    length: int | None = None
    trace: bool = False
    id: str | None = None

    @property
    def task_name(self) -> str:
        """The task's name, whether or not there is such a task."""
        return self.task if isinstance(self.task, str) else self.task.name


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one denoising step did to an answer of n places; places count from its first."""

    ids: Tensor  # int64 [n], after the step; the mask id where still blank
    places: Tensor  # int64 [k] ascending, what was committed
    tokens: Tensor  # int64 [k], what was written there
    confidences: Tensor  # float32 [k], what the places were chosen by


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a request.

    parts: the answer; empty after an error. canvas: as far as it got; None where the request
    could not be laid out. trace: a record per step, if asked for. seconds: on the clock, from its
    first work to its answer, whatever was batched beside it. error: None, an OmniError where
    something about the request was at fault, or any other exception that befell it. notes: what
    a reader of the answer should know, one line each.
    """

    id: str
    task: str
    parts: tuple[Part, ...]
    canvas: Canvas | None
    trace: tuple[StepRecord, ...]
    seconds: float
    steps: int
    error: Exception | None = None
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Running:
    """A request on its way, from its admission to its result."""

    id: str
    request: Request
    turn: int  # the step that it last took part in; set by the engine
    began: float = field(default_factory=time.perf_counter)
    prepared: Prepared | None = None  # set by `lay_out`, as is the row
    row: Row | None = None
    trace: list[StepRecord] = field(default_factory=list)
    error: Exception | None = None

    def lay_out(self, prepared: Prepared, mask_id: int) -> None:
        """Take what the request was rendered to; raises an OmniError if it cannot be denoised."""
        self.prepared = prepared
        self.row = Row(prepared.canvas, prepared.null, prepared.params, mask_id)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to denoise."""
        return self.error is not None or self.laid.state.done

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return stream.share(self.laid.canvas, self.laid.blanks)

    @property
    def laid(self) -> Row:
        """The row; only after `lay_out`."""
        assert self.row is not None
        return self.row

    @property
    def lengths(self) -> tuple[int, ...]:
        """Places of each of its rows."""
        return self.laid.lengths

    def record(self, commit: Commit) -> None:
        """Note a step, if a trace was asked for."""
        if self.request.trace:
            start, stop = self.laid.canvas.answer
            ids = self.laid.canvas.ids[start:stop].clone()
            places = commit.places - start
            self.trace.append(StepRecord(ids, places, commit.tokens, commit.confidences))

    def result(self, answer: Answer | None) -> Result:
        """What came of it; `answer` is None after an error."""
        return Result(
            id=self.id,
            task=self.request.task_name,
            parts=answer.parts if answer else (),
            canvas=self.row.canvas if self.row else None,
            trace=tuple(self.trace),
            seconds=time.perf_counter() - self.began,
            steps=self.row.state.steps_done if self.row else 0,
            error=self.error,
            notes=answer.notes if answer else (),
        )

"""A request's life: the question (Request), its progress (RequestState), its outcome (Result).

A Request is the user's and never changes; a RequestState is the engine's alone.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Conversation, Part
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.sampler import Commit
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.engine.stream import behind_ends, progress_of
from omni_diffusion.tasks.defaults import Overrides
from omni_diffusion.tasks.read import Answer
from omni_diffusion.tasks.render import Prepared
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Request:
    """One task for the engine.

    task: a task, or its name in the catalog. params: a whole `SamplingParams`, or a mapping of some
    of its fields, which are merged over the defaults of model and task (over the preset's, with
    one). max_tokens: length of a text or speech answer, instead of the task's rule. preset: the
    name of `tasks.presets` whose numbers replace the defaults. setting: the preset's setting, such
    as that of a benchmark; None = the task's. trace: keep a record of every step.
    id: None lets the engine choose one.
    """

    task: str | Task
    conversation: Conversation
    params: Overrides = None
    max_tokens: int | None = None
    trace: bool = False
    id: str | None = None
    preset: str | None = None
    setting: str | None = None

    @property
    def task_name(self) -> str:
        """The task's name, whether or not there is such a task."""
        return self.task if isinstance(self.task, str) else self.task.name


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one denoising step did to an answer of n tokens; positions count from its first."""

    ids: Tensor  # int64 [n], after the step; the mask id where still masked
    positions: Tensor  # int64 [k] ascending, what was committed
    tokens: Tensor  # int64 [k], the committed tokens
    confidences: Tensor  # float32 [k], by which the positions were chosen


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a request.

    parts: the answer; empty after an error. canvas: as far as it got; None where the request could
    not be laid out, or was spoken in passages. trace: a record per step, if asked for. seconds:
    wall time from its first work to its answer. steps: forward passes. error: the exception that
    ended the request, if any. notes: what a reader of the answer should know, a line each. params:
    the sampling parameters in force, None where nothing was laid out.
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
    params: SamplingParams | None = None


@dataclass(eq=False)
class RequestState:
    """A request in the engine, from its admission to its result."""

    id: str
    request: Request
    preparing: Future[Prepared] | None = None
    began: float = field(default_factory=time.perf_counter)
    last_step: int = -1  # the engine's step that it last took part in
    prepared: Prepared | None = None  # set by `start`, as is the guided canvas
    guided: GuidedCanvas | None = None
    decoding: Future[Answer] | None = None
    trace: list[StepRecord] = field(default_factory=list)
    error: Exception | None = None

    def start(self, mask_id: int) -> None:
        """Take the laid-out canvas; raises the error of encoding or layout."""
        assert self.preparing is not None
        self.prepared = prepared = self.preparing.result()
        self.guided = GuidedCanvas(prepared.canvas, prepared.uncond, prepared.params, mask_id)

    @property
    def denoised(self) -> bool:
        """Whether no step is left."""
        return self.error is not None or self.active.state.done

    @property
    def progress(self) -> float:
        """The fraction of its masked tokens that are committed."""
        if self.guided is None:
            return 0.0
        return progress_of(self.guided.canvas, self.guided.blanks)

    @property
    def active(self) -> GuidedCanvas:
        """The canvas that is being denoised; only after `start`."""
        assert self.guided is not None
        return self.guided

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each of its rows."""
        return self.active.lengths

    def record(self, commit: Commit) -> None:
        """Keep a record of the step, if a trace was asked for."""
        if self.request.trace:
            start, stop = self.active.canvas.answer
            ids = self.active.canvas.ids[start:stop].clone()
            positions = commit.positions - start
            self.trace.append(StepRecord(ids, positions, commit.tokens, commit.confidences))

    def end_early(self, vocabulary: Vocabulary) -> None:
        """Fill what stands behind the ends of its answer, if the request asks for it."""
        if self.prepared is not None and self.prepared.params.end_early:
            behind = behind_ends(self.active.canvas, self.prepared.spans, vocabulary)
            if len(behind):
                self.active.close(behind, vocabulary.pad)

    def result(self, answer: Answer | None) -> Result:
        """What came of it; `answer` is None after an error."""
        return Result(
            id=self.id,
            task=self.request.task_name,
            parts=answer.parts if answer else (),
            canvas=self.guided.canvas if self.guided else None,
            trace=tuple(self.trace),
            seconds=time.perf_counter() - self.began,
            steps=self.guided.state.steps_done if self.guided else 0,
            error=self.error,
            notes=answer.notes if answer else (),
            params=self.prepared.params if self.prepared else None,
        )

"""The progress of a request, from the engine's thread to the coroutine that answers it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.engine.request import RequestState, Result, StepRecord
from omni_diffusion.engine.stream import CommittedSpan, partial_result
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Update:
    """What is known of a request after a step.

    passage: the part of a long text that it is about, 0 for any other request. step of `total`.
    spans: what is committed, by segment. records: the steps since the update before, of a request
    with trace. ids, given: int64 and bool [n] of the answer's positions: the mask id where masked,
    and what was known beforehand. allowed: int64 [n, 2], the half-open range of ids of each.
    measure: of the confidences. result: of the passage, in its last update.
    """

    passage: int
    step: int = 0
    total: int = 0
    spans: tuple[CommittedSpan, ...] = ()
    records: tuple[StepRecord, ...] = ()
    ids: Tensor | None = None
    given: Tensor | None = None
    allowed: Tensor | None = None
    measure: Measure = "entropy"
    result: Result | None = None


def update_of(passage: int, state: RequestState, seen: int, vocabulary: Vocabulary) -> Update:
    """The update of a request that is denoised; `seen`: its records that were sent before."""
    assert state.guided is not None
    assert state.prepared is not None
    canvas, denoising = state.guided.canvas, state.guided.state
    answer = slice(*canvas.answer)
    return Update(
        passage,
        denoising.steps_done,
        denoising.steps,
        partial_result(canvas, state.guided.blanks, state.prepared.spans, vocabulary).spans,
        tuple(state.trace[seen:]),
        canvas.ids[answer],
        ~(canvas.blank | denoising.written)[answer],
        canvas.allowed[answer],
        state.prepared.params.confidence,
    )


def last_update(passage: int, result: Result, seen: int) -> Update:
    """The update that carries a result; it has a layout where none was sent before."""
    records = result.trace[seen:]
    if seen or result.canvas is None or result.params is None or not records:
        return Update(passage, records=records, result=result)
    answer = slice(*result.canvas.answer)
    ids = result.canvas.ids[answer]
    given = torch.ones_like(ids, dtype=torch.bool)
    given[torch.cat([record.positions for record in records])] = False
    allowed, measure = result.canvas.allowed[answer], result.params.confidence
    return Update(passage, 0, 0, (), records, ids, given, allowed, measure=measure, result=result)


class Feed:
    """Updates in order; made in the coroutine that reads them.

    every: keep each update. Otherwise a newer one replaces an unread one, so that a slow reader
    costs no memory.
    """

    def __init__(self, *, every: bool = False) -> None:
        self.every = every
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._updates: deque[Update] = deque()
        self._ended = False

    def put(self, update: Update) -> None:
        """Add an update; from any thread."""
        self._call(self._put, update)

    def end(self) -> None:
        """No update follows; from any thread."""
        self._call(self._end)

    def __aiter__(self) -> AsyncIterator[Update]:
        return self._read()

    async def _read(self) -> AsyncIterator[Update]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._updates:
                yield self._updates.popleft()
            if self._ended:
                return

    def _call(self, method: Callable[..., None], *arguments: Update) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads
            self._loop.call_soon_threadsafe(method, *arguments)

    def _put(self, update: Update) -> None:
        if not self.every and update.result is None:
            for index in range(len(self._updates) - 1, -1, -1):
                held = self._updates[index]
                if held.passage == update.passage and held.result is None:
                    self._updates[index] = update
                    self._wake.set()
                    return
        self._updates.append(update)
        self._wake.set()

    def _end(self) -> None:
        self._ended = True
        self._wake.set()

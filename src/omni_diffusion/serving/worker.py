"""The engine's thread: requests come in from coroutines, progress and results go back.

One thread steps the engine. A request is cancelled by cancelling its future; it leaves before the
next step. Waiting requests are admitted by `admission`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TypeVar

from omni_diffusion.engine.engine import Engine, join_results
from omni_diffusion.engine.prepare import passage_requests, resolve_task
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import OmniError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving import faults
from omni_diffusion.serving.admission import Admission, lane_of
from omni_diffusion.serving.deltas import settled_text
from omni_diffusion.serving.faults import LOG
from omni_diffusion.serving.feed import Feed, last_update, update_of
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.metrics import Metrics
from omni_diffusion.vocab import Kind

PASSAGES_AHEAD = 2  # passages of one long text that wait or run at once
IDLE = 0.5  # seconds between looks at deadlines while the engine rests
PACE = 0.2  # weight of the latest request in the mean that Retry-After is made from
Found = TypeVar("Found")


@dataclass(eq=False)
class Ticket:
    """A request that was accepted; `future` gives its result, and cancelling it ends the request.

    passages: a long text is several requests of the engine, any other request is one. enough:
    whether the settled text of the answer is all that will be sent; no further step is then taken.
    """

    request: Request
    passages: Sequence[Request]
    lane: Kind
    feed: Feed | None
    enough: Callable[[str], bool] | None = None
    began: float = field(default_factory=time.perf_counter)
    future: Future[Result] = field(default_factory=Future)
    results: dict[int, Result] = field(default_factory=dict)
    entered: int = 0  # passages that were let into the queue
    works: list[QueuedWork] = field(default_factory=list)

    async def result(self) -> Result:
        """The result; raises what ended the request. Cancelling this ends the request."""
        try:
            result = await asyncio.wrap_future(self.future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise faults.cancelled() from None
        if result.error is not None:
            raise result.error
        return result

    def cancel(self) -> None:
        """End the request before the next step, unless it is finished."""
        self.future.cancel()


@dataclass(eq=False)
class QueuedWork:
    """A passage in the queue or in the engine; the times are those at which a phase began."""

    ticket: Ticket
    passage: int
    id: str
    lane: Kind
    phase: str = "queue"
    since: float = field(default_factory=time.perf_counter)
    step: int = -1  # the last one that was shown
    seen: int = 0  # records that were shown
    slot: bool = False


class Worker:
    """Runs an `Engine` for coroutines.

    max_batch: requests that are denoised at once. codec_threads: threads that encode and decode.
    """

    def __init__(
        self,
        model: OmniModel,
        limits: Limits,
        metrics: Metrics,
        *,
        max_batch: int = 8,
        codec_threads: int = 2,
    ) -> None:
        self.model, self.limits, self.metrics = model, limits, metrics
        self.draining = False
        self._open: Callable[[], Engine] = partial(
            Engine, model, max_batch=max_batch, workers=codec_threads
        )
        self._engine = self._open()
        self._slots = max_batch
        self._admission: Admission[QueuedWork] = Admission(max_batch)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tickets: set[Ticket] = set()
        self._works: dict[str, QueuedWork] = {}  # in the engine
        self._numbers = count(1)
        self._accepted = 0  # tickets without an end
        self._lock = threading.Lock()
        self._seconds = 1.0  # mean of a request in the engine
        self._stopping = False
        self.pool = ThreadPoolExecutor(codec_threads, thread_name_prefix="media")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests beyond those that the batch holds."""
        return max(0, self._accepted - self._slots)

    async def submit(
        self,
        request: Request,
        feed: Feed | None = None,
        enough: Callable[[str], bool] | None = None,
    ) -> Ticket:
        """Queue a request. Raises ApiError: 429 when the queue is full, 503 when draining.

        enough: see `Ticket`.
        """
        task = resolve_task(request).answering(self.model.generation.answers)
        kinds = task.answer or ((task.partial,) if task.partial else ())
        passages = [request]
        if task.chunked:
            passages = await self.off_loop(_passages, request, self.model)
        with self._lock:
            if self.draining or not self.alive:
                raise faults.draining()
            waiting = self.waiting
            if waiting >= self.limits.queue:
                raise faults.busy(waiting, self._seconds * waiting / self._slots)
            self._accepted += 1
        ticket = Ticket(request, passages, lane_of(kinds), feed, enough)
        ticket.future.add_done_callback(lambda _: self._ended(ticket))
        self._commands.put(partial(self._enter, ticket))
        return ticket

    async def off_loop(self, function: Callable[..., Found], *arguments: object) -> Found:
        """Call a function on a media thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def drain(self, seconds: float) -> None:
        """Accept nothing more, wait for what runs, and cancel the rest after `seconds`."""
        self.draining = True
        until = time.monotonic() + seconds
        while self._accepted and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for ticket in list(self._tickets):
            ticket.cancel()

    def close(self) -> None:
        """End the thread; requests that still run are cancelled."""
        self.draining = True
        self._commands.put(self._stop)
        self._thread.join(timeout=30)
        self.pool.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------- below: the engine's thread
    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception:
                LOG.exception("the engine failed; its requests end, and it starts again")
                self._restart()

    def _turn(self) -> None:
        """Commands, deadlines, admissions, one step of the engine, news."""
        self._obey()
        self._expire()
        self._admit()
        if not self._works:
            return
        finished = self._engine.step(block=False)
        moved = [self._show(work) for work in self._works.values()]
        if any(moved):
            self.metrics.steps.inc()
        for id in finished:
            self._finish(self._works.pop(id), self._engine.result(id))

    def _obey(self) -> None:
        try:
            if not self._works:
                self._commands.get(timeout=IDLE)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            return

    def _stop(self) -> None:
        self._stopping = True
        for ticket in list(self._tickets):
            ticket.cancel()

    def _enter(self, ticket: Ticket) -> None:
        if ticket.future.done():
            return
        self._tickets.add(ticket)
        while (
            ticket.entered < len(ticket.passages)
            and ticket.entered - len(ticket.results) < PASSAGES_AHEAD
        ):
            work = QueuedWork(ticket, ticket.entered, f"work-{next(self._numbers)}", ticket.lane)
            ticket.works.append(work)
            ticket.entered += 1
            self._admission.add(work)

    def _expire(self) -> None:
        now = time.perf_counter()
        for ticket in list(self._tickets):
            if now - ticket.began > self.limits.deadline:
                _settle(ticket.future, error=faults.too_late(self.limits.deadline))

    def _admit(self) -> None:
        while (work := self._admission.take()) is not None:
            work.slot = True
            self.metrics.admission.labels(work.lane).observe(time.perf_counter() - work.since)
            self._phase(work, "encode")
            request = replace(work.ticket.passages[work.passage], id=work.id)
            self._works[work.id] = work
            self._engine.add(request)
        for lane in ("text", "speech", "image"):
            self.metrics.waiting.labels(lane).set(self._admission.waiting(lane))
        self.metrics.batch.set(sum(work.slot for work in self._works.values()))

    def _show(self, work: QueuedWork) -> bool:
        """Tell the reader what a step committed; free the slot of what is denoised.

        Returns whether there was a step.
        """
        state = self._engine.state(work.id)
        if state is None:
            return False
        if work.phase == "encode":
            self._phase(work, "denoise")
        steps = state.active.state.steps_done
        moved = steps != work.step
        if moved and work.ticket.feed is not None:
            update = update_of(work.passage, state, work.seen, self.model.vocabulary)
            work.ticket.feed.put(update)
            work.seen = len(state.trace)
        work.step = steps
        if moved and work.ticket.enough is not None:
            self._end_if_enough(work, work.ticket.enough)
        if state.decoding is not None and work.phase == "denoise":
            self._phase(work, "decode")
            self._free(work)
        return moved

    def _end_if_enough(self, work: QueuedWork, enough: Callable[[str], bool]) -> None:
        seen = self._engine.look(work.id)
        if seen is not None and enough(settled_text(seen.spans, self.model)):
            self._engine.finish(work.id)

    def _finish(self, work: QueuedWork, result: Result) -> None:
        ticket = work.ticket
        self._phase(work, "done")
        self._free(work)
        ticket.works.remove(work)
        ticket.results[work.passage] = result
        self._seconds += PACE * (result.seconds - self._seconds)
        self.metrics.tasks.labels(result.task, "error" if result.error else "done").inc()
        if result.error is not None and not isinstance(result.error, OmniError):
            LOG.error("request of task %s failed", result.task, exc_info=result.error)
        if ticket.feed is not None:
            ticket.feed.put(last_update(work.passage, result, work.seen))
        if result.error is not None or len(ticket.results) == len(ticket.passages):
            whole = _whole(ticket)
            self.metrics.whole.labels(result.task).observe(whole.seconds)
            _settle(ticket.future, whole)
        else:
            self._enter(ticket)

    def _ended(self, ticket: Ticket) -> None:
        """The future is done or cancelled, by whatever thread."""
        with self._lock:
            self._accepted -= 1
        if ticket.feed is not None:
            ticket.feed.end()
        self._commands.put(partial(self._leave, ticket))

    def _leave(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        for work in ticket.works:
            self._admission.drop(work)
            if self._works.pop(work.id, None) is not None:
                self._engine.abort(work.id)
            self._free(work)
            self.metrics.tasks.labels(ticket.request.task_name, "cancelled").inc()
        ticket.works.clear()

    def _free(self, work: QueuedWork) -> None:
        if work.slot:
            work.slot = False
            self._admission.release(work)

    def _phase(self, work: QueuedWork, phase: str) -> None:
        now = time.perf_counter()
        self.metrics.phases.labels(work.phase).observe(now - work.since)
        work.phase, work.since = phase, now

    def _restart(self) -> None:
        works, self._works = list(self._works.values()), {}
        self._engine = self._open()
        for work in works:
            self._free(work)
            error = faults.ApiError(
                500, "the engine failed on this batch; try again", kind="server_error",
                code="internal_error",
            )  # fmt: skip
            _settle(work.ticket.future, error=error)


def _passages(request: Request, model: OmniModel) -> list[Request]:
    try:
        passages = passage_requests(replace(request, trace=False), model)
    except OmniError:
        return [request]  # its result carries the error
    return [replace(passage, trace=request.trace) for passage in passages]


def _whole(ticket: Ticket) -> Result:
    results = [ticket.results[index] for index in sorted(ticket.results)]
    seconds = time.perf_counter() - ticket.began
    if len(ticket.passages) == 1:
        return replace(results[0], seconds=seconds)
    return join_results(results[0].id, results[0].task, seconds, results)


def _settle(
    future: Future[Result], result: Result | None = None, error: Exception | None = None
) -> None:
    """Give a future its outcome, unless it was cancelled or has one."""
    try:
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)
    except InvalidStateError:
        pass

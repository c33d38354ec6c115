"""The engine: requests in, answers out, by continuous batching.

One `step` is: admit requests that wait, advance those that run by one denoising step, hand over
those that are done. Requests of any task, length and number of steps run side by side and join and
leave between steps. Media are encoded and decoded on worker threads: a codec stalls no step.
One thread at a time may call an engine; it changes nothing outside of itself, not even the global
random state.

The seed of a request decides its tokens. What is batched beside it may change roundings of the
logits, and so a choice between two nearly equal ones; with max_batch=1 nothing does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from omni_diffusion.conversation import Part, Speech
from omni_diffusion.diffusion.sampler import Commit
from omni_diffusion.engine import runner, stream
from omni_diffusion.engine.batcher import select
from omni_diffusion.engine.prepare import decode, passage_requests, prepare
from omni_diffusion.engine.request import Request, RequestState, Result
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.errors import ConfigError, ModelError, OmniError, TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.chunking import joined
from omni_diffusion.tasks.read import Answer

CODEC_WAIT = 0.02  # seconds; so long an idle, non-blocking step waits for a codec
NON_FINITE = (
    "the model's logits are not finite; check its weights, its dtype and the sound it was given"
)


@dataclass(frozen=True)
class Progress:
    """How far a `run` is: requests finished of `total`, and the fraction of its work, 0 to 1."""

    finished: int
    total: int
    fraction: float


@dataclass(eq=False)
class _Passages:
    """A request whose text is spoken in passages, each a request of its own."""

    request: Request
    ids: list[str]
    began: float = field(default_factory=time.perf_counter)


class Engine:
    """Answers requests with one model.

    max_batch: requests that are denoised at once; the others wait in order. max_step_tokens: tokens
    of one step, both branches of guidance counted; requests that do not fit take turns. workers:
    threads that encode and decode. Raises ConfigError for numbers below 1.
    """

    def __init__(
        self,
        model: OmniModel,
        *,
        max_batch: int = 8,
        max_step_tokens: int = 8192,
        workers: int = 1,
    ) -> None:
        sizes = {"max_batch": max_batch, "max_step_tokens": max_step_tokens, "workers": workers}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(
                    f"{name} is {value}", field=name, value=value, fix="give 1 or more"
                )
        self.model = model
        self.max_batch = max_batch
        self.max_step_tokens = max_step_tokens
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="codec")
        self._waiting: dict[str, RequestState] = {}
        self._running: dict[str, RequestState] = {}
        self._decoding: dict[str, RequestState] = {}
        self._results: dict[str, Result] = {}
        self._passages: dict[str, _Passages] = {}
        self._steps = 0
        self._last_id = 0

    @property
    def pending(self) -> int:
        """Number of requests that wait, run or are being decoded."""
        return len(self._waiting) + len(self._running) + len(self._decoding)

    def state(self, id: str) -> RequestState | None:
        """The state of a request that is denoised or decoded, to be read; None before and after."""
        state = self._running.get(id) or self._decoding.get(id)
        return None if state is None or state.guided is None else state

    def add(self, request: Request) -> str:
        """Queue a request and return its id. Raises TaskError when that id is in use.

        A text that is too long for one canvas is spoken in passages, which are joined in its
        result.
        """
        id = self._new_id() if request.id is None else request.id
        if self._holds(id):
            raise TaskError(
                f"request id {id!r} is in use", field="id", value=id, fix="give another or None"
            )
        try:
            requests = passage_requests(request, self.model)
        except OmniError:
            requests = [request]  # its result carries the error
        if len(requests) == 1:
            self._queue(id, request)
        else:
            ids = [f"{id}/{number}" for number in range(len(requests))]
            self._passages[id] = _Passages(request, ids)
            for passage_id, passage in zip(ids, requests, strict=True):
                self._queue(passage_id, passage)
        return id

    def step(self, *, block: bool = True) -> list[str]:
        """Advance every request that takes part by one denoising step; returns the finished ids.

        An exception raised for one request is stored in its result; other requests continue.
        block: wait until the requests to be admitted next are encoded, so that what is batched
        together does not depend on timing; without it a slow codec delays no other request, and a
        step that finds only codecs at work returns after `CODEC_WAIT`.
        """
        self._encode_ahead()
        self._admit(block)
        running = [state for state in self._running.values() if not state.denoised]
        group = select(running, self.max_step_tokens)
        # sequences of one length beside each other: their attention is one batch
        self._advance(sorted(group, key=lambda state: state.lengths))
        self._steps += 1
        for id in [id for id, state in self._running.items() if state.denoised]:
            self._start_decoding(self._running.pop(id))
        idle = not self._running and (not self._waiting or not block)
        return self._collect(wait_for_all=block and idle, wait_for_any=idle and not block)

    def result(self, id: str) -> Result:
        """What came of a request, once: the engine then forgets it.

        Raises TaskError when it is not finished or not known.
        """
        if id not in self._results:
            if self._in_progress(id):
                raise TaskError(
                    f"request {id!r} is not finished", field="id", value=id, fix="step until it is"
                )
            raise TaskError(
                f"request {id!r} is not known",
                field="id",
                value=id,
                fix="it was taken, aborted or never added",
            )
        return self._results.pop(id)

    def abort(self, id: str) -> bool:
        """Forget a request, whether it waits, runs or is finished; False if it is not known."""
        known = self._holds(id)
        passages = self._passages.pop(id, None)
        for each in [id] if passages is None else passages.ids:
            state = self._waiting.pop(each, None)
            if state is not None and state.preparing is not None:
                state.preparing.cancel()
            for states in (self._running, self._decoding, self._results):
                states.pop(each, None)
        self._results.pop(id, None)
        return known

    def finish(self, id: str) -> bool:
        """Take no further step for a request that runs; False for any other.

        Its masked positions become pads, so text and speech end before the first of them.
        """
        state = self._running.get(id)
        if state is None or state.denoised:
            return False
        masked = state.active.canvas.blank.nonzero().flatten()
        state.active.close(masked, self.model.vocabulary.pad)
        return True

    def look(self, id: str) -> stream.PartialResult | None:
        """What is committed of a request that runs; None before and after."""
        state = self._running.get(id)
        if state is None or state.prepared is None or state.guided is None:
            return None
        return stream.partial_result(
            state.guided.canvas, state.guided.blanks, state.prepared.spans, self.model.vocabulary
        )

    def run(
        self, requests: Sequence[Request], progress: Callable[[Progress], None] | None = None
    ) -> list[Result]:
        """Answer requests, in their order; `progress` is called after every step.

        An OmniError is stored in the result of its request, as is an abort by `progress`. Any other
        exception, of the engine or of `progress`, is raised after all of these requests have been
        forgotten.
        """
        ids: list[str] = []
        try:
            for request in requests:
                ids.append(self.add(request))
            while any(map(self._in_progress, ids)):
                for id in self.step():
                    if id in ids:
                        self._raise_unexpected(id)
                if progress is not None:
                    progress(self._progress(ids))
            return [
                self.result(id) if id in self._results else _aborted(id, request)
                for id, request in zip(ids, requests, strict=True)
            ]
        finally:
            for id in ids:
                self.abort(id)

    def _queue(self, id: str, request: Request) -> None:
        self._waiting[id] = RequestState(id, request, last_step=self._steps - 1)

    def _encode_ahead(self) -> None:
        """Start to encode the requests that are admitted next."""
        for state in list(self._waiting.values())[: 2 * self.max_batch]:
            if state.preparing is None:
                state.began = time.perf_counter()
                state.preparing = self._workers.submit(prepare, state.request, self.model)

    def _admit(self, block: bool) -> None:
        for id, state in list(self._waiting.items()):
            if len(self._running) >= self.max_batch:
                return
            if state.preparing is None or not (block or state.preparing.done()):
                continue
            try:
                state.start(self.model.vocabulary.mask)
            except Exception as error:
                state.error = error
            del self._waiting[id]  # only now: an interrupted request waits on
            state.last_step = self._steps - 1
            self._running[id] = state

    def _advance(self, group: Sequence[RequestState]) -> None:
        """One forward pass and one commit; what fails is repeated in halves.

        So a bad request costs only itself, and what exceeded the memory may still fit.
        """
        if not group:
            return
        commits = self._commits([state.active for state in group])
        if isinstance(commits, Exception):
            if len(group) == 1:
                group[0].error = commits
                return
            del commits  # it keeps the tensors of the failed pass alive
            half = len(group) // 2
            self._advance(group[:half])
            self._advance(group[half:])
            return
        for state, commit in zip(group, commits, strict=True):
            if commit is None:
                state.error = ModelError(NON_FINITE)
                continue
            state.record(commit)
            state.end_early(self.model.vocabulary)
            state.last_step = self._steps

    def _commits(self, canvases: Sequence[GuidedCanvas]) -> list[Commit | None] | Exception:
        try:
            return runner.commit(canvases, runner.logits(self.model.backbone, canvases))
        except Exception as error:
            return error

    def _start_decoding(self, state: RequestState) -> None:
        self._decoding[state.id] = state
        if state.error is None and state.prepared is not None:
            canvas = state.active.canvas
            state.decoding = self._workers.submit(decode, canvas, state.prepared, self.model)

    def _collect(self, *, wait_for_all: bool, wait_for_any: bool) -> list[str]:
        """Results of what is decoded; waits where there is nothing else to do."""
        futures = [state.decoding for state in self._decoding.values() if state.decoding]
        if wait_for_all:
            wait(futures)
        elif wait_for_any:
            encoding = [state.preparing for state in self._waiting.values() if state.preparing]
            both: list[Future[Any]] = [*futures, *encoding]
            wait(both, timeout=CODEC_WAIT, return_when=FIRST_COMPLETED)
        finished = []
        for id, state in list(self._decoding.items()):
            if state.decoding is None or state.decoding.done():
                del self._decoding[id]
                self._results[id] = _result(state)
                finished.append(id)
        return self._join_passages(finished)

    def _join_passages(self, finished: list[str]) -> list[str]:
        """The finished ids, with a request in place of its passages once all are there."""
        for id, passages in list(self._passages.items()):
            finished = [each for each in finished if each not in passages.ids]
            results = [self._results[each] for each in passages.ids if each in self._results]
            failed = any(result.error is not None for result in results)
            if failed or len(results) == len(passages.ids):
                self.abort(id)
                seconds = time.perf_counter() - passages.began
                self._results[id] = join_results(id, passages.request.task_name, seconds, results)
                finished.append(id)
        return finished

    def _raise_unexpected(self, id: str) -> None:
        error = self._results[id].error
        if error is not None and not isinstance(error, OmniError):
            raise error

    def _progress(self, ids: Sequence[str]) -> Progress:
        finished = sum(not self._in_progress(id) for id in ids)
        return Progress(finished, len(ids), sum(map(self._fraction, ids)) / len(ids))

    def _fraction(self, id: str) -> float:
        passages = self._passages.get(id)
        if passages is not None:
            return sum(map(self._fraction, passages.ids)) / len(passages.ids)
        if id in self._waiting:
            return 0.0
        return self._running[id].progress if id in self._running else 1.0

    def _in_progress(self, id: str) -> bool:
        stages = (self._waiting, self._running, self._decoding, self._passages)
        return any(id in stage for stage in stages)

    def _holds(self, id: str) -> bool:
        return self._in_progress(id) or id in self._results

    def _new_id(self) -> str:
        while True:
            self._last_id += 1
            if not self._holds(id := f"request-{self._last_id}"):
                return id


def _result(state: RequestState) -> Result:
    answer: Answer | None = None
    if state.decoding is not None:
        try:
            answer = state.decoding.result()
        except Exception as error:
            state.error = error
    return state.result(answer)


def join_results(id: str, task: str, seconds: float, results: Sequence[Result]) -> Result:
    """The result of a text from those of its passages; none is skipped silently."""
    error = next((result.error for result in results if result.error is not None), None)
    parts: tuple[Part, ...] = ()
    if error is None:
        sounds = [p.waveform for r in results for p in r.parts if isinstance(p, Speech)]
        if len(sounds) == len(results):
            parts = (Speech(joined(sounds)),)
        else:
            error = ModelError("a passage has no speech; ask again with another seed")
    notes = dict.fromkeys(note for result in results for note in result.notes)
    return Result(
        id,
        task,
        parts,
        None,
        (),
        seconds,
        sum(result.steps for result in results),
        error,
        (*notes, f"spoken in {len(results)} passages"),
    )


def _aborted(id: str, request: Request) -> Result:
    error = TaskError(f"request {id!r} was aborted; ask again")
    return Result(id, request.task_name, (), None, (), 0.0, 0, error)

"""The engine: requests in, filled canvases and their answers out, by continuous batching.

One `step` is: admit who waits, advance who runs by one denoising step, hand back who is done.
Requests of any task, length and step count run side by side and come and go between steps. One
thread at a time; nothing outside of an engine is changed, the global random state included.

A request's own seed decides its tokens; what is batched beside it may change roundings of the
logits, and so a choice between two that are all but equal. With max_batch=1 nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.engine import runner, stream
from omni_diffusion.engine.batcher import Budget, join, share_passes
from omni_diffusion.engine.request import Request, Result, Running
from omni_diffusion.errors import ConfigError, ModelError, OmniError, TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import task as find_task
from omni_diffusion.tasks.read import Answer, read
from omni_diffusion.tasks.render import render

# Places that cost as much as one more forward pass: the small model on a CPU core, and a GPU, which
# is idle with fewer.
LAUNCH = {"cpu": 24}
LAUNCH_ELSEWHERE = 512
NOT_NUMBERS = (
    "the model's logits hold values that are not numbers; check its weights, its dtype and"
    " the sound it was given"
)


@dataclass(frozen=True)
class Progress:
    """How far a `run` is: requests finished of `total`, and the share of the work done, 0 to 1."""

    finished: int
    total: int
    share: float


class Engine:
    """Answers requests with one model.

    max_batch: requests that run at once; the others wait in order. max_places: places of one step,
    both branches of guidance counted; who does not fit takes turns. launch: see `Budget`; None
    chooses by the model's device. Raises ConfigError for numbers below 1.
    """

    def __init__(
        self,
        model: OmniModel,
        *,
        max_batch: int = 8,
        max_places: int = 8192,
        launch: int | None = None,
    ) -> None:
        if launch is None:
            launch = LAUNCH.get(model.device.type, LAUNCH_ELSEWHERE)
        for name, value in (("max_batch", max_batch), ("max_places", max_places)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; give 1 or more")
        self.model = model
        self.max_batch = max_batch
        self.budget = Budget(max_places, launch)
        self._waiting: dict[str, Request] = {}
        self._running: dict[str, Running] = {}
        self._results: dict[str, Result] = {}
        self._steps = 0
        self._named = 0

    @property
    def pending(self) -> int:
        """How many requests wait or run."""
        return len(self._waiting) + len(self._running)

    def add(self, request: Request) -> str:
        """Queue a request; returns its id. Raises TaskError when that id is in use."""
        id = self._new_id() if request.id is None else request.id
        if self._holds(id):
            raise TaskError(f"request id {id!r} is in use; give another or None")
        self._waiting[id] = request
        return id

    def step(self) -> list[str]:
        """Advance every request that takes part by one denoising step; returns who finished.

        Whatever befalls a request, an OmniError or not, ends up in its result, and the others
        go on.
        """
        self._admit()
        going = [run for run in self._running.values() if not run.over]
        for group in share_passes(join(going, self.budget), self.budget):
            self._advance(group)
        self._steps += 1
        finished = [id for id, run in self._running.items() if run.over]
        for id in finished:
            self._finish(self._running[id])
        return finished

    def result(self, id: str) -> Result:
        """What came of a request, once: the engine then forgets it.

        Raises TaskError when it is still under way or not known.
        """
        if id not in self._results:
            if self._under_way(id):
                raise TaskError(f"request {id!r} is still under way; step until it is finished")
            raise TaskError(f"request {id!r} is not known; it was taken, aborted or never added")
        return self._results.pop(id)

    def abort(self, id: str) -> bool:
        """Forget a request, whether it waits, runs or is finished; False if it is not known."""
        held = self._holds(id)
        self._waiting.pop(id, None)
        self._running.pop(id, None)
        self._results.pop(id, None)
        return held

    def look(self, id: str) -> stream.Look | None:
        """What is already sure of a request that runs; None before and after."""
        run = self._running.get(id)
        if run is None or run.prepared is None:
            return None
        row, sections = run.laid, run.prepared.sections
        return stream.look(row.canvas, row.blanks, sections, self.model.vocabulary)

    def run(
        self, requests: Sequence[Request], progress: Callable[[Progress], None] | None = None
    ) -> list[Result]:
        """Answer requests, in their order; `progress` is called after every step.

        An OmniError lies in the result of its request, as does an abortion by `progress`. Any
        other exception, of the engine or of `progress`, comes out of here, after all of these
        requests have been forgotten.
        """
        ids: list[str] = []
        try:
            for request in requests:
                ids.append(self.add(request))
            while any(map(self._under_way, ids)):
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

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.max_batch:
            id, request = next(iter(self._waiting.items()))
            run = Running(id, request, turn=self._steps - 1)
            try:
                self._lay_out(run)
            except Exception as error:
                run.error = error
            del self._waiting[id]  # only now: an interrupted request waits on
            self._running[id] = run

    @torch.no_grad()
    def _lay_out(self, run: Running) -> None:
        asked = run.request
        task = find_task(asked.task) if isinstance(asked.task, str) else asked.task
        prepared = render(task, asked.conversation, self.model, asked.params, length=asked.length)
        run.lay_out(prepared, self.model.vocabulary.mask)

    def _advance(self, group: Sequence[Running]) -> None:
        """One forward pass and one commit; a pass that fails is tried again in halves.

        So one bad request costs only itself, and what was too much for the memory may still fit.
        """
        found = self._logits(group)
        if isinstance(found, Exception):
            if len(group) == 1:
                group[0].error = found
                return
            del found  # it holds on to what the failed pass had in memory
            half = len(group) // 2
            self._advance(group[:half])
            self._advance(group[half:])
            return
        sound = []
        for run, logits, finite in zip(group, found, runner.finite(found), strict=True):
            if finite:
                sound.append((run, logits))
            else:
                run.error = ModelError(NOT_NUMBERS)
        self._commit(sound)

    def _commit(self, sound: Sequence[tuple[Running, Tensor]]) -> None:
        try:
            commits = runner.commit([run.laid for run, _ in sound], [each for _, each in sound])
        except Exception as error:
            for run, _ in sound:
                run.error = error
            return
        for (run, _), commit in zip(sound, commits, strict=True):
            run.record(commit)
            run.turn = self._steps

    def _logits(self, group: Sequence[Running]) -> list[Tensor] | Exception:
        rows = [run.laid for run in group]
        try:
            return runner.logits(self.model.backbone, rows, self.model.vocabulary.pad)
        except Exception as error:
            return error

    @torch.no_grad()
    def _finish(self, run: Running) -> None:
        answer: Answer | None = None
        if run.error is None and run.prepared is not None:
            try:
                answer = read(run.laid.canvas, run.prepared, self.model)
            except Exception as error:
                run.error = error
        del self._running[run.id]
        self._results[run.id] = run.result(answer)

    def _raise_unexpected(self, id: str) -> None:
        error = self._results[id].error
        if error is not None and not isinstance(error, OmniError):
            raise error

    def _progress(self, ids: Sequence[str]) -> Progress:
        finished = sum(not self._under_way(id) for id in ids)
        begun = (self._running[id] for id in ids if id in self._running)
        return Progress(finished, len(ids), (finished + sum(run.share for run in begun)) / len(ids))

    def _under_way(self, id: str) -> bool:
        return id in self._waiting or id in self._running

    def _holds(self, id: str) -> bool:
        return self._under_way(id) or id in self._results

    def _new_id(self) -> str:
        while True:
            self._named += 1
            if not self._holds(id := f"request-{self._named}"):
                return id


def _aborted(id: str, request: Request) -> Result:
    error = TaskError(f"request {id!r} was aborted; ask again")
    return Result(id, request.task_name, (), None, (), 0.0, 0, error)

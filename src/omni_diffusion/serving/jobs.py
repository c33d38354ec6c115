"""Jobs: a request whose steps can be watched, from the start, by any number of readers.

Jobs live in memory, for a bounded time and in a bounded number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from typing import Any

from omni_diffusion.engine.request import Request, Result, StepRecord
from omni_diffusion.engine.stream import certainty, token_label
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.deltas import Delta, Deltas, PictureDelta, SoundDelta, TextDelta
from omni_diffusion.serving.faults import LOG, ApiError, api_error
from omni_diffusion.serving.feed import Update
from omni_diffusion.serving.parts import (
    base64_of,
    data_uri,
    encoded_picture,
    native_part,
    pcm16,
)
from omni_diffusion.serving.service import Service
from omni_diffusion.serving.worker import Ticket


@dataclass(eq=False)
class Job:
    """A request and all its events so far, (name, data); `status` is the last one's."""

    id: str
    task: str
    request: Request
    every: int
    status: str = "queued"
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    ended: float | None = None
    ticket: Ticket | None = None
    running: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether no event follows."""
        return self.status in ("done", "error", "cancelled")

    def view(self) -> dict[str, Any]:
        """The job as GET gives it."""
        shown: dict[str, Any] = {"id": self.id, "task": self.task, "status": self.status}
        if self.over:
            shown.update(self.events[-1][1])
        return shown

    async def add(self, name: str, data: dict[str, Any]) -> None:
        """Add an event and wake the readers."""
        async with self.changed:
            self.events.append((name, data))
            if name in ("done", "error", "cancelled"):
                self.status, self.ended = name, time.monotonic()
            elif name != "queued":
                self.status = "running"
            self.changed.notify_all()

    async def read(self, after: int = -1) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        """Number, name and data of each event after number `after`, until the last."""
        for number in count(max(0, after + 1)):
            async with self.changed:
                while number >= len(self.events) and not self.over:
                    await self.changed.wait()
            if number >= len(self.events):
                return
            yield number, *self.events[number]


class Jobs:
    """The jobs of a server; the oldest finished ones go first."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._jobs: dict[str, Job] = {}

    async def start(self, request: Request, every: int) -> Job:
        """Queue a request as a job; raises ApiError when too many are unfinished or waiting."""
        self._sweep()
        if len(self._jobs) >= self.service.limits.jobs:
            raise ApiError(
                429, f"{len(self._jobs)} jobs are unfinished", code="rate_limit_exceeded",
                kind="rate_limit_error", headers={"Retry-After": "5"},
            )  # fmt: skip
        job = Job(f"job_{token_hex(12)}", request.task_name, request, every)
        self._jobs[job.id] = job
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job.running = asyncio.create_task(self._run(job, ready))
        self.service.background.add(job.running)
        job.running.add_done_callback(self.service.background.discard)
        try:
            await ready
        except Exception:
            del self._jobs[job.id]
            raise
        return job

    def get(self, id: str) -> Job:
        """A job; raises ApiError 404 for one that is not known (any more)."""
        self._sweep()
        if id not in self._jobs:
            raise ApiError(404, f"no job '{id}'; it is unknown or no longer kept", param="id")
        return self._jobs[id]

    async def cancel(self, id: str) -> Job:
        """End a job before its next step."""
        job = self.get(id)
        if job.ticket is not None:
            job.ticket.cancel()
        if job.running is not None:
            await asyncio.wait({job.running})
        return job

    def _sweep(self) -> None:
        """Forget jobs that ended long ago, and the oldest where there are too many."""
        limits, now = self.service.limits, time.monotonic()
        ended = sorted(
            (job for job in self._jobs.values() if job.ended is not None),
            key=lambda job: job.ended or 0.0,
        )
        for job in ended:
            old = now - (job.ended or now) > limits.job_seconds
            if old or len(self._jobs) >= limits.jobs:
                del self._jobs[job.id]

    async def _run(self, job: Job, ready: asyncio.Future[None]) -> None:
        """Submit the job's request and turn its updates into events."""
        service = self.service
        waiting = service.worker.waiting
        reporter = Reporter(service.model, job.every)
        try:
            async with service.following(job.request, every=True) as (ticket, feed):
                job.ticket = ticket
                await job.add("queued", {"position": waiting})
                if not ready.done():
                    ready.set_result(None)
                async for update, deltas in service.news(ticket, feed, reporter.deltas):
                    for name, data in await service.worker.off_loop(
                        reporter.events, update, deltas
                    ):
                        await job.add(name, data)
                result = await ticket.result()
            await job.add("done", await service.worker.off_loop(_done, result))
        except asyncio.CancelledError:  # the server ends
            await job.add("cancelled", {})
            raise
        except Exception as error:
            if isinstance(error, ApiError) and error.code == "cancelled":
                await job.add("cancelled", {})
                return
            if not ready.done():
                ready.set_exception(error)
                return
            found = api_error(error)
            if found.status >= 500:
                LOG.error("job %s failed", job.id, exc_info=error)
            await job.add("error", found.body)


class Reporter:
    """Turns the updates of a request into events."""

    def __init__(self, model: OmniModel, every: int) -> None:
        self.model = model
        self.deltas = Deltas(model, sound=True, every=every)
        self._laid_out: set[int] = set()
        self._last: dict[int, tuple[int, int]] = {}  # step and total, by passage

    def events(self, update: Update, deltas: list[Delta]) -> list[tuple[str, dict[str, Any]]]:
        """The events of an update, in order."""
        events: list[tuple[str, dict[str, Any]]] = []
        passage = update.passage
        if update.ids is not None and passage not in self._laid_out:
            self._laid_out.add(passage)
            events.append(("layout", self._layout(update)))
        if update.total:
            self._last[passage] = (update.step, update.total)
        step, total = self._last.get(passage, (0, 0))
        first = step - len(update.records) + 1 if update.total else step + 1
        for number, record in enumerate(update.records, first):
            step_event = self._step(number, total or len(update.records), update, record)
            events.append(("step", step_event))
        events += [_delta_event(delta) for delta in deltas]
        return events

    def _layout(self, update: Update) -> dict[str, Any]:
        assert update.ids is not None
        assert update.given is not None
        assert update.allowed is not None
        vocabulary = self.model.vocabulary
        positions = []
        for id, given, allowed in zip(
            update.ids.tolist(), update.given.tolist(), update.allowed.tolist(), strict=True
        ):
            if given:
                kind = vocabulary.span(id).name.replace("specials", "special")
                positions.append([kind, "given", token_label(id, self.model)])
            else:
                positions.append([self._kind(allowed), "masked"])
        return {"passage": update.passage, "steps": update.total, "positions": positions}

    def _kind(self, allowed: list[int]) -> str:
        """The kind that a masked position is for, by the ids it may take."""
        vocabulary = self.model.vocabulary
        ranges = {
            (vocabulary.image.start, vocabulary.image.stop): "image",
            vocabulary.range("speech"): "speech",
            vocabulary.range("text"): "text",
            (vocabulary.speech.start, vocabulary.speech.stop): "speech",
            (vocabulary.text.start, vocabulary.text.stop): "text",
        }
        return ranges.get((allowed[0], allowed[1]), "any")

    def _step(self, step: int, total: int, update: Update, record: StepRecord) -> dict[str, Any]:
        vocabulary = self.model.vocabulary
        tokens = []
        for position, id, confidence in zip(
            record.positions.tolist(),
            record.tokens.tolist(),
            record.confidences.tolist(),
            strict=True,
        ):
            kind = vocabulary.span(id).name.replace("specials", "special")
            sure = round(certainty(confidence, update.measure), 3)
            tokens.append([position, kind, token_label(id, self.model), sure])
        return {
            "passage": update.passage,
            "step": step,
            "total": total,
            "tokens": tokens,
            "masked": int((record.ids == vocabulary.mask).sum()),
        }


def _delta_event(delta: Delta) -> tuple[str, dict[str, Any]]:
    if isinstance(delta, TextDelta):
        return "text", {"delta": delta.text}
    if isinstance(delta, SoundDelta):
        sound = delta.waveform
        return "audio", {"data": base64_of(pcm16(sound)), "rate": sound.rate}
    assert isinstance(delta, PictureDelta)
    data = data_uri(encoded_picture(delta.picture), "image/png")
    return "preview", {"image": data, "step": delta.step, "total": delta.total}


def _done(result: Result) -> dict[str, Any]:
    return {
        "parts": [native_part(part) for part in result.parts],
        "seconds": round(result.seconds, 3),
        "steps": result.steps,
        "seed": None if result.params is None else result.params.seed,
        "notes": list(result.notes),
    }

"""What every route shares: the worker, the limits, and the way from a body to an answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from omni_diffusion.conversation import Conversation
from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.request import Request as EngineRequest
from omni_diffusion.engine.request import Result
from omni_diffusion.errors import OmniError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving import uploads
from omni_diffusion.serving.deltas import Delta, Deltas
from omni_diffusion.serving.faults import ApiError, api_error
from omni_diffusion.serving.feed import Feed, Update
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.metrics import Metrics
from omni_diffusion.serving.worker import Ticket, Worker
from omni_diffusion.tasks.task import Task

Outcome = TypeVar("Outcome")
LARGE_JSON = 2**16  # bytes of JSON that are parsed on a media thread
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
KEEP_ALIVE = 10.0  # seconds without an event, after which a comment is sent


@dataclass(eq=False)
class Service:
    """A model that is served under a name; `background` tasks are waited for at the end."""

    model: OmniModel
    name: str
    limits: Limits
    metrics: Metrics
    worker: Worker
    examples: dict[str, Sequence[Inputs]] = field(default_factory=dict)
    about: str | None = None
    background: set[asyncio.Task[None]] = field(default_factory=set)
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """Raise ApiError for a model that is not served here."""
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"The model '{name}' does not exist; this server has '{self.name}'",
                param="model",
                code="model_not_found",
            )

    async def inputs(
        self,
        text: str | None = None,
        image: bytes | str | None = None,
        audio: bytes | str | None = None,
        mask: bytes | str | None = None,
        *,
        params: dict[str, str] | None = None,
    ) -> Inputs:
        """What a client gives, decoded on a media thread; `params`: names for errors."""
        names = {"text": "text", "image": "image", "audio": "audio", "mask": "mask"}
        names.update(params or {})
        self.check_text(text, names["text"])
        return await self.worker.off_loop(self._read, text, image, audio, mask, names)

    def ask(
        self,
        task: Task,
        inputs: Inputs | Conversation,
        overrides: dict[str, Any],
        params: dict[str, str],
        **options: Any,
    ) -> EngineRequest:
        """`engine.ask.ask`, with errors of the API; `params`: names of fields in them."""
        try:
            return ask(task, inputs, **options, **overrides)
        except OmniError as error:
            raise api_error(error, params) from error

    def check_text(self, text: str | None, param: str) -> None:
        """Raise ApiError for a text that is too long."""
        if text is not None and len(text) > self.limits.text:
            raise ApiError(
                400,
                f"'{param}' has {len(text)} characters; this server takes {self.limits.text}",
                param=param,
                code="string_above_max_length",
            )

    def _read(
        self,
        text: str | None,
        image: bytes | str | None,
        audio: bytes | str | None,
        mask: bytes | str | None,
        names: dict[str, str],
    ) -> Inputs:
        picture = speech = hole = None
        if image is not None:
            data = uploads.content(image, names["image"]) if isinstance(image, str) else image
            picture = uploads.read_picture(data, self.limits, names["image"])
        if audio is not None:
            data = uploads.content(audio, names["audio"]) if isinstance(audio, str) else audio
            speech = uploads.read_sound(data, self.limits, names["audio"])
        if mask is not None and picture is None:
            raise ApiError(400, "a mask needs a picture", param=names["image"])
        if mask is not None and picture is not None:
            if isinstance(mask, str):
                hole = uploads.box_or_hole(mask, picture, self.limits, names["mask"])
            else:
                hole = uploads.hole(mask, picture, self.limits, names["mask"])
        return Inputs(text, picture, speech, hole)

    async def answers(
        self,
        http: Request,
        requests: Sequence[EngineRequest],
        params: dict[str, str],
        enough: Callable[[str], bool] | None = None,
    ) -> list[Result]:
        """The results of requests; a client that leaves ends them. enough: see `worker.Ticket`."""
        tickets: list[Ticket] = []
        try:
            for request in requests:
                tickets.append(await self.worker.submit(request, enough=enough))
            return await while_connected(http, asyncio.gather(*(t.result() for t in tickets)))
        except Exception as error:
            raise api_error(error, params) from error
        finally:
            for ticket in tickets:
                ticket.cancel()

    @asynccontextmanager
    async def following(
        self,
        request: EngineRequest,
        *,
        every: bool = False,
        enough: Callable[[str], bool] | None = None,
    ) -> AsyncIterator[tuple[Ticket, Feed]]:
        """A request and its updates; leaving ends it. enough: see `worker.Ticket`."""
        feed = Feed(every=every)
        ticket = await self.worker.submit(request, feed, enough)
        try:
            yield ticket, feed
        finally:
            ticket.cancel()

    async def news(
        self, ticket: Ticket, feed: Feed, deltas: Deltas
    ) -> AsyncIterator[tuple[Update, list[Delta]]]:
        """Updates with what is new in each; raises the error that ended the request."""
        first: set[str] = set()
        async for update in feed:
            found = await self.worker.off_loop(deltas.of, update)
            for delta in found:
                medium = type(delta).__name__.removesuffix("Delta").lower()
                if medium not in first:
                    first.add(medium)
                    seconds = time.perf_counter() - ticket.began
                    self.metrics.first.labels(medium).observe(seconds)
            yield update, found
        await ticket.result()


async def while_connected(http: Request, work: Awaitable[Outcome]) -> Outcome:
    """The outcome of `work`, which is cancelled when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def json_body(http: Request, service: Service) -> object:
    """The body as JSON; raises ApiError for another."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415, f"the content type is {kind or 'missing'!r}; send application/json",
            code="unsupported_media_type",
        )  # fmt: skip
    data = await http.body()
    try:
        return (
            await service.worker.off_loop(_loaded, data)
            if len(data) > LARGE_JSON
            else _loaded(data)
        )
    except (ValueError, RecursionError) as error:  # also half of a surrogate pair
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from error


def _loaded(data: bytes) -> object:
    found = json.loads(data)
    if SURROGATE.search(data):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def event(data: object, name: str | None = None, id: int | None = None) -> bytes:
    """One server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    head += "" if id is None else f"id: {id}\n"
    text = data if isinstance(data, str) else json.dumps(data)
    return f"{head}data: {text}\n\n".encode()


async def started(http: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same events, once the first is there: an error before it can still have a status."""
    try:
        first = await while_connected(http, _next(events))
    except BaseException:
        await close(events)
        raise
    return events if first is None else _chained(first, events)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for each in rest:
            yield each
    finally:
        await close(rest)


class EventStream(StreamingResponse):
    """Server-sent events, or bytes as they come; when the client leaves, their source is closed.

    An error after the first event ends them with an error event.
    """

    def __init__(
        self, content: AsyncIterator[bytes], media_type: str = "text/event-stream"
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self._source = guarded(content) if media_type == "text/event-stream" else content
        super().__init__(self._source, media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await close(self._source)


async def guarded(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Events, with a comment where none comes for long, and the error that ended them."""
    upcoming: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE)
            if not done:
                yield b": ping\n\n"
                continue
            try:
                found = upcoming.result()
            except Exception as error:
                yield event(api_error(error).body, "error")
                return
            if found is None:
                return
            upcoming = None
            yield found
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        await close(events)


async def close(events: AsyncIterator[bytes]) -> None:
    """Close a generator, whose request then ends."""
    closing: Callable[[], Awaitable[None]] | None = getattr(events, "aclose", None)
    if closing is not None:
        await closing()


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)

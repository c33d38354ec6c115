"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from secrets import token_hex
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from omni_diffusion.conversation import Image
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.serving.chat import (
    CHAT_PARAMS,
    ChatPlan,
    Reply,
    TextGate,
    chat_plan,
    decided,
    requests,
    speaking,
    usage_of,
)
from omni_diffusion.serving.deltas import Deltas, SoundDelta, TextDelta
from omni_diffusion.serving.openai_schema import ChatBody
from omni_diffusion.serving.parts import (
    CONTAINERS,
    SoundWriter,
    base64_of,
    data_uri,
    encoded_picture,
    encoded_sound,
)
from omni_diffusion.serving.schema import parse_body
from omni_diffusion.serving.service import EventStream, Service, event, json_body, started

KEPT = 3600  # seconds that OpenAI's clients think an answer's audio is kept; ours is in the answer


def chat_routes(service: Service) -> APIRouter:
    """The route of one service."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat(http: HttpRequest) -> Response:
        """Answer a conversation."""
        body = parse_body(ChatBody, await json_body(http, service))
        service.check_model(body.model)
        asked = await service.worker.off_loop(chat_plan, body, service)
        wanted = requests(body, asked, service)
        if body.stream:
            return EventStream(await started(http, _stream(service, body, asked, wanted)))
        results = await service.answers(
            http, wanted, CHAT_PARAMS, decided(body, asked, service.model)
        )
        spoken = await _spoken(http, service, body, asked, results)
        answer = await service.worker.off_loop(_answer, service, body, asked, results, spoken)
        return JSONResponse(answer)

    return routes


async def _spoken(
    http: HttpRequest, service: Service, body: ChatBody, asked: ChatPlan, results: list[Result]
) -> list[Result | None]:
    """The spoken texts of the answers, where the task gives no speech itself."""
    if not asked.spoken_after:
        return [None] * len(results)
    texts = [_cut(Reply.of(result).text, body, service)[0] for result in results]
    speeches = [speaking(text, service) for text in texts if text]
    found = iter(await service.answers(http, speeches, CHAT_PARAMS))
    return [next(found) if text else None for text in texts]


def _cut(text: str, body: ChatBody, service: Service) -> tuple[str, str]:
    """The text up to a stop text or the most tokens, and the reason of its end."""
    gate = TextGate(body.stops, body.most_tokens, service.model)
    return gate.pass_on(text, last=True), gate.reason


def _answer(
    service: Service,
    body: ChatBody,
    asked: ChatPlan,
    results: list[Result],
    spoken: list[Result | None],
) -> dict[str, Any]:
    choices = []
    for index, (result, speech) in enumerate(zip(results, spoken, strict=True)):
        reply = Reply.of(result)
        text, reason = _cut(reply.text, body, service)
        waveform = reply.speech if speech is None else Reply.of(speech).speech
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if asked.audio and waveform is not None:
            message["content"] = None
            message["audio"] = _audio(waveform, text, body)
        if reply.pictures:
            message["images"] = [_picture(picture, i) for i, picture in enumerate(reply.pictures)]
        choices.append(
            {"index": index, "message": message, "finish_reason": reason, "logprobs": None}
        )
    every = [*results, *(speech for speech in spoken if speech is not None)]
    head = _head("chat.completion", service)
    return {**head, "choices": choices, "usage": usage_of(every, service.model)}


def _head(kind: str, service: Service) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": service.name,
    }


def _audio(waveform: Waveform, text: str, body: ChatBody) -> dict[str, Any]:
    name = body.audio.format if body.audio is not None else "wav"
    container = CONTAINERS["pcm" if name == "pcm16" else name]
    return {
        "id": f"audio_{token_hex(12)}",
        "data": base64_of(encoded_sound(waveform, container)),
        "expires_at": int(time.time()) + KEPT,
        "transcript": text,
    }


def _picture(picture: Picture, index: int) -> dict[str, Any]:
    url = data_uri(encoded_picture(picture), "image/png")
    return {"type": "image_url", "index": index, "image_url": {"url": url}}


async def _stream(
    service: Service, body: ChatBody, asked: ChatPlan, wanted: list[Request]
) -> AsyncIterator[bytes]:
    """The chunks of all choices, one choice after the other, and [DONE]."""
    head = _head("chat.completion.chunk", service)
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    results: list[Result] = []
    for index, request in enumerate(wanted):
        stream = _Choice(service, body, asked, index, head, with_usage)
        async for chunk in stream.chunks(request):
            yield chunk
        results += stream.results
    if with_usage:
        usage = usage_of(results, service.model)
        yield event({**head, "choices": [], "usage": usage})
    yield event("[DONE]")


class _Choice:
    """The stream of one choice."""

    def __init__(
        self,
        service: Service,
        body: ChatBody,
        asked: ChatPlan,
        index: int,
        head: dict[str, Any],
        with_usage: bool,
    ) -> None:
        self.service, self.body, self.asked, self.index = service, body, asked, index
        self.head = {**head, "usage": None} if with_usage else head
        self.gate = TextGate(body.stops, body.most_tokens, service.model)
        self.audio_id = f"audio_{token_hex(12)}"
        self.results: list[Result] = []
        self._writer = SoundWriter(CONTAINERS["pcm"])
        self._text = ""

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """The role, text, sound and pictures as they come, the reason of the end."""
        content = None if self.asked.audio else ""
        role: bytes | None = self._chunk({"role": "assistant", "content": content})
        with self._writer:
            enough = decided(self.body, self.asked, self.service.model)
            async for chunk in self._follow(request, self.asked.audio, enough):
                if role is not None:
                    yield role
                    role = None
                yield chunk
            if role is not None:
                yield role
            if self.asked.spoken_after and self._text:
                request = speaking(self._text, self.service)
                async for chunk in self._follow(request, True):
                    yield chunk
            if self._writer.begun:
                rest = base64_of(self._writer.finish())
                yield self._chunk({"audio": {"id": self.audio_id, "data": rest}})
                end = {"id": self.audio_id, "expires_at": int(time.time()) + KEPT}
                yield self._chunk({"audio": end})
        yield self._chunk({}, self.gate.reason)

    async def _follow(
        self, request: Request, sound: bool, enough: Callable[[str], bool] | None = None
    ) -> AsyncIterator[bytes]:
        service = self.service
        deltas = Deltas(service.model, sound=sound)
        async with service.following(request, enough=enough) as (ticket, feed):
            async for update, found in service.news(ticket, feed, deltas):
                for delta in found:
                    if isinstance(delta, TextDelta):
                        for chunk in self._said(delta.text):
                            yield chunk
                    elif isinstance(delta, SoundDelta):
                        yield await service.worker.off_loop(self._heard, delta.waveform)
                if update.result is not None:
                    self.results.append(update.result)
                    for chunk in self._said("", last=True):
                        yield chunk
                    for number, part in enumerate(update.result.parts):
                        if isinstance(part, Image):
                            yield self._chunk({"images": [_picture(part.picture, number)]})

    def _said(self, text: str, *, last: bool = False) -> list[bytes]:
        piece = self.gate.pass_on(text, last=last)
        if not piece:
            return []
        self._text += piece
        if self.asked.audio:
            return [self._chunk({"audio": {"id": self.audio_id, "transcript": piece}})]
        return [self._chunk({"content": piece})]

    def _heard(self, waveform: Waveform) -> bytes:
        data = base64_of(self._writer.write(waveform))
        return self._chunk({"audio": {"id": self.audio_id, "data": data}})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {
            "index": self.index,
            "delta": delta,
            "finish_reason": reason,
            "logprobs": None,
        }
        return event({**self.head, "choices": [choice]})

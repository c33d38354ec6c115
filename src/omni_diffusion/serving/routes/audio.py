"""POST /v1/audio/speech and /v1/audio/transcriptions; the voices and models of audio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from omni_diffusion.conversation import Speech, text_of
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import ModelError
from omni_diffusion.media import Waveform
from omni_diffusion.serving.chat import VOICE_NAMES, check_voice, usage_of
from omni_diffusion.serving.deltas import Deltas, SoundDelta, TextDelta
from omni_diffusion.serving.faults import ApiError
from omni_diffusion.serving.forms import read_form
from omni_diffusion.serving.openai_schema import SpeechBody, TranscriptionBody
from omni_diffusion.serving.parts import (
    CONTAINERS,
    Container,
    SoundWriter,
    base64_of,
    encoded_sound,
)
from omni_diffusion.serving.schema import parse_body
from omni_diffusion.serving.service import EventStream, Service, event, json_body, started
from omni_diffusion.tasks.catalog import HEAR
from omni_diffusion.tasks.infer import direct_task, infer_task

SPEAK_PARAMS = {"text": "input"}
NO_SOUND = "the answer has no speech; ask again with another seed"
HEAR_PARAMS = {"speech": "file", "audio": "file"}


def audio_routes(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter()

    @routes.post("/v1/audio/speech")
    async def speak(http: HttpRequest) -> Response:
        """Speak a text."""
        body = parse_body(SpeechBody, await json_body(http, service))
        service.check_model(body.model)
        service.check_text(body.input, "input")
        check_voice(body.voice, "voice")
        task = direct_task("text", "speech")
        request = service.ask(
            task, Inputs(body.input), body.overrides(), SPEAK_PARAMS, preset=body.preset
        )
        return await _spoken(http, service, body, request)

    @routes.post("/v1/audio/transcriptions")
    async def transcribe(http: HttpRequest) -> Response:
        """Write down what is said."""
        form = await read_form(http, service, "file")
        body = parse_body(TranscriptionBody, form.fields)
        service.check_model(body.model)
        inputs = await service.inputs(audio=form.file("file"), params={"audio": "file"})
        assert inputs.speech is not None
        found = infer_task(inputs.kinds, text=HEAR)
        assert found is not None
        request = service.ask(found.task, inputs, body.overrides(), HEAR_PARAMS, preset=body.preset)
        if body.stream:
            return EventStream(await started(http, _heard(service, request)))
        (result,) = await service.answers(http, [request], HEAR_PARAMS)
        return _transcript(result, inputs.speech, body, service)

    @routes.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        """The names that `voice` takes."""
        return {"voices": [{"id": name, "name": name} for name in VOICE_NAMES]}

    @routes.get("/v1/audio/models")
    async def models() -> dict[str, Any]:
        """The model, as clients of audio ask for it."""
        return {"models": [{"id": service.name, "name": service.name}]}

    return routes


# ---------------------------------------------------------------------------------------- speech
async def _spoken(
    http: HttpRequest, service: Service, body: SpeechBody, request: Request
) -> Response:
    container = CONTAINERS[body.response_format]
    if body.stream_format == "sse":
        if container.live == "no":
            raise ApiError(
                400, f"{body.response_format} cannot be sent as it is made; give another"
                " 'response_format' or 'stream_format' audio", param="response_format",
                code="unsupported_value",
            )  # fmt: skip
        return EventStream(await started(http, _sound_events(service, container, request)))
    asked = body.stream_format == "audio"
    if container.live == "yes" or (container.live == "sizeless" and asked):
        pieces = await started(http, _pieces(service, container, request, None))
        return EventStream(pieces, media_type=container.media_type)
    (result,) = await service.answers(http, [request], SPEAK_PARAMS)
    data = await service.worker.off_loop(encoded_sound, _speech(result), container)
    return Response(data, media_type=container.media_type)


async def _pieces(
    service: Service, container: Container, request: Request, results: list[Result] | None
) -> AsyncIterator[bytes]:
    """The bytes of a container as soon as they are sure; results are added to the list."""
    deltas = Deltas(service.model, sound=True)
    with SoundWriter(container) as writer:
        async with service.following(request) as (ticket, feed):
            async for update, found in service.news(ticket, feed, deltas):
                for delta in found:
                    if isinstance(delta, SoundDelta):
                        data = await service.worker.off_loop(writer.write, delta.waveform)
                        if data:
                            yield data
                if update.result is not None and results is not None:
                    results.append(update.result)
        if not writer.begun:
            raise ModelError(NO_SOUND)
        data = await service.worker.off_loop(writer.finish)
        if data:
            yield data


async def _sound_events(
    service: Service, container: Container, request: Request
) -> AsyncIterator[bytes]:
    results: list[Result] = []
    async for data in _pieces(service, container, request, results):
        delta = {"type": "speech.audio.delta", "audio": base64_of(data)}
        yield event(delta, "speech.audio.delta")
    usage = _usage(results, service)
    yield event({"type": "speech.audio.done", "usage": usage}, "speech.audio.done")


def _speech(result: Result) -> Waveform:
    for part in result.parts:
        if isinstance(part, Speech):
            return part.waveform
    raise ModelError(NO_SOUND)


def _usage(results: list[Result], service: Service) -> dict[str, Any]:
    counted = usage_of(results, service.model)
    return {
        "input_tokens": counted["prompt_tokens"],
        "output_tokens": counted["completion_tokens"],
        "total_tokens": counted["total_tokens"],
    }


# ----------------------------------------------------------------------------------- transcripts
async def _heard(service: Service, request: Request) -> AsyncIterator[bytes]:
    text, results = "", list[Result]()
    async with service.following(request) as (ticket, feed):
        async for update, found in service.news(ticket, feed, Deltas(service.model)):
            for delta in found:
                if isinstance(delta, TextDelta):
                    text += delta.text
                    shown = {"type": "transcript.text.delta", "delta": delta.text}
                    yield event(shown, "transcript.text.delta")
            if update.result is not None:
                results.append(update.result)
    usage = {"type": "tokens", **_usage(results, service)}
    done = {"type": "transcript.text.done", "text": text, "usage": usage}
    yield event(done, "transcript.text.done")


def _transcript(
    result: Result, speech: Waveform, body: TranscriptionBody, service: Service
) -> Response:
    text, seconds = text_of(result.parts), speech.seconds
    if body.response_format == "text":
        return PlainTextResponse(text + "\n")
    if body.response_format == "srt":
        cue = f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{text}\n\n"
        return PlainTextResponse(cue if text else "")
    if body.response_format == "vtt":
        cue = f"{_clock(0, '.')} --> {_clock(seconds, '.')}\n{text}\n\n"
        return PlainTextResponse("WEBVTT\n\n" + (cue if text else ""), media_type="text/vtt")
    if body.response_format == "verbose_json":
        return JSONResponse(
            {
                "task": "transcribe",
                "language": body.language or "english",
                "duration": round(seconds, 3),
                "text": text,
                "segments": [_segment(text, seconds, body)] if text else [],
                "usage": {"type": "duration", "seconds": round(seconds, 3)},
            }
        )
    return JSONResponse({"text": text, "usage": {"type": "tokens", **_usage([result], service)}})


def _segment(text: str, seconds: float, body: TranscriptionBody) -> dict[str, Any]:
    """The whole recording as one segment: the model tells no times within it."""
    return {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": round(seconds, 3),
        "text": text,
        "tokens": [],
        "temperature": body.temperature or 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _clock(seconds: float, point: str) -> str:
    millis = round(seconds * 1000)
    hours, rest = divmod(millis, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"

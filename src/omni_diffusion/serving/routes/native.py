"""Routes of our own: tasks, jobs that can be watched, and infilling of any mix of parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import torch
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from omni_diffusion.conversation import (
    AnyPart,
    Blank,
    Image,
    Message,
    PartialImage,
    PartialSpeech,
    Speech,
    Text,
)
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.engine.request import Request as EngineRequest
from omni_diffusion.media import Picture
from omni_diffusion.serving import uploads
from omni_diffusion.serving.faults import ApiError, api_error
from omni_diffusion.serving.jobs import Job, Jobs
from omni_diffusion.serving.parts import (
    CONTAINERS,
    data_uri,
    encoded_picture,
    encoded_sound,
    native_part,
)
from omni_diffusion.serving.schema import (
    BlankPart,
    InfillBody,
    JobBody,
    KnownAudio,
    KnownImage,
    KnownText,
    NativePart,
    parse_body,
    sampling,
)
from omni_diffusion.serving.service import EventStream, Service, event, json_body
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.infer import infer_task, partial_task
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Kind

NAMES = {"text": "text", "image": "image", "speech": "audio", "mask": "mask"}
DELAY = 3.0  # seconds after which a reader of events connects again


def native_routes(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter()

    @routes.get("/v1/tasks")
    async def tasks() -> list[dict[str, Any]]:
        """The tasks, with inputs that work."""
        answers = service.model.generation.answers
        return [_task(task.answering(answers), service) for task in catalog.TASKS]

    @routes.post("/v1/infill")
    async def infill(http: Request) -> dict[str, Any]:
        """Fill the masked parts of a conversation."""
        body = parse_body(InfillBody, await json_body(http, service))
        request = await service.worker.off_loop(_infill_request, body, service)
        (result,) = await service.answers(http, [request], NAMES)
        return {
            "object": "infill",
            "model": service.name,
            "parts": [native_part(part) for part in result.parts],
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "notes": list(result.notes),
        }

    return routes


def job_routes(service: Service) -> APIRouter:
    """Jobs of one service; they live in its process."""
    routes, jobs = APIRouter(), Jobs(service)

    @routes.post("/v1/jobs", status_code=202)
    async def start(http: Request) -> JSONResponse:
        """Queue a task; its events tell how it goes."""
        body = parse_body(JobBody, await json_body(http, service))
        job = await jobs.start(await _job_request(service, body), body.stream.every)
        return JSONResponse(job.view(), status_code=202, headers={"Location": f"/v1/jobs/{job.id}"})

    @routes.get("/v1/jobs/{id}")
    async def look(id: str) -> dict[str, Any]:
        """A job's status, and its answer when it is done."""
        return jobs.get(id).view()

    @routes.delete("/v1/jobs/{id}")
    async def cancel(id: str) -> dict[str, Any]:
        """End a job before its next step."""
        return (await jobs.cancel(id)).view()

    @routes.get("/v1/jobs/{id}/events")
    async def events(id: str, http: Request) -> Response:
        """The job's events from the start, or after the header Last-Event-ID."""
        after = http.headers.get("last-event-id", "-1")
        last = int(after) if after.removeprefix("-").isdecimal() else -1
        return EventStream(_job_events(jobs.get(id), last))

    return routes


async def _job_events(job: Job, after: int) -> AsyncIterator[bytes]:
    yield f"retry: {int(DELAY * 1000)}\n\n".encode()
    async for number, name, data in job.read(after):
        yield event(data, name, number)


async def _job_request(service: Service, body: JobBody) -> EngineRequest:
    inputs = await service.inputs(body.text, body.image, body.audio, body.mask)
    task = _job_task(body, inputs)
    return service.ask(
        task,
        inputs,
        {**sampling(body.params), **_seed(body.seed)},
        NAMES,
        preset=body.preset,
        max_tokens=body.max_tokens,
        trace=True,
    )


def _seed(seed: int | None) -> dict[str, int]:
    return {} if seed is None else {"seed": seed}


def _job_task(body: JobBody, inputs: Inputs) -> Task:
    if body.task is not None:
        try:
            return catalog.task(body.task)
        except Exception as error:
            raise api_error(error) from error
    found = infer_task(
        inputs.kinds, text=inputs.text, wanted=body.want or "text", mask=inputs.mask is not None
    )
    if found is None:
        given = " and ".join(inputs.kinds) or "nothing"
        raise ApiError(
            400, f"no task takes {given} and answers with {body.want or 'text'}; name the 'task'",
            param="task", code="invalid_value",
        )  # fmt: skip
    return found.task


def _task(task: Task, service: Service) -> dict[str, Any]:
    optional: list[Kind] = list(task.optional)
    needed: list[Kind] = [kind for kind in task.inputs or ("text",) if kind not in optional]
    if task.partial == "text":
        optional = ["image", "speech"]
    inputs = [NAMES[kind] for kind in needed]
    if task.partial == "image":
        inputs += ["image", "mask"]
    examples = [_example(each) for each in service.examples.get(task.name, ())]
    return {
        "name": task.name,
        "title": task.title,
        "inputs": inputs,
        "optional": [NAMES[kind] for kind in optional],
        "answers": [NAMES[kind] for kind in task.answer or (task.partial or "text",)],
        "example": examples[0] if examples else None,
        "examples": examples[1:],
    }


def _example(inputs: Inputs) -> dict[str, str]:
    shown = {}
    if inputs.text is not None:
        shown["text"] = inputs.text
    if inputs.image is not None:
        shown["image"] = data_uri(encoded_picture(inputs.image), "image/png")
    if inputs.speech is not None:
        shown["audio"] = data_uri(encoded_sound(inputs.speech, CONTAINERS["wav"]), "audio/wav")
    if inputs.mask is not None:
        drawn = Picture(inputs.mask[..., None].to(torch.uint8).mul(255).repeat(1, 1, 3))
        shown["mask"] = data_uri(encoded_picture(drawn), "image/png")
    return shown


def _infill_request(body: InfillBody, service: Service) -> EngineRequest:
    messages = [
        Message(
            message.role,
            tuple(
                _part(part, service, f"messages[{i}].content[{j}]")
                for j, part in enumerate(message.content)
            ),
        )
        for i, message in enumerate(body.messages)
    ]
    overrides = {**sampling(body.params), **_seed(body.seed)}
    return service.ask(partial_task("text"), messages, overrides, NAMES, preset=body.preset)


def _part(part: NativePart, service: Service, where: str) -> AnyPart:
    limits = service.limits
    if isinstance(part, KnownText):
        service.check_text(part.text, f"{where}.text")
        return Text(part.text)
    if isinstance(part, BlankPart):
        return Blank(part.kind, part.length)
    if isinstance(part, KnownImage):
        name = f"{where}.image"
        picture = uploads.read_picture(uploads.content(part.image, name), limits, name)
        if part.mask is None:
            return Image(picture)
        return PartialImage(
            picture, uploads.box_or_hole(part.mask, picture, limits, f"{where}.mask")
        )
    assert isinstance(part, KnownAudio)
    name = f"{where}.audio"
    waveform = uploads.read_sound(uploads.content(part.audio, name), limits, name)
    return Speech(waveform) if part.gaps is None else PartialSpeech(waveform, tuple(part.gaps))

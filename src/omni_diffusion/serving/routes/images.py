"""POST /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from omni_diffusion.conversation import Image
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import ModelError
from omni_diffusion.media import Picture
from omni_diffusion.serving.chat import usage_of, with_negative
from omni_diffusion.serving.deltas import Deltas, PictureDelta
from omni_diffusion.serving.faults import ApiError
from omni_diffusion.serving.forms import read_form
from omni_diffusion.serving.openai_schema import EditBody, ImageBody
from omni_diffusion.serving.parts import base64_of, data_uri, encoded_picture, scaled
from omni_diffusion.serving.schema import parse_body
from omni_diffusion.serving.service import EventStream, Service, event, json_body, started
from omni_diffusion.tasks.infer import direct_task, partial_task

PUBLISHED_SIZES = ("1024x1024", "1024x1536", "1536x1024")
IMAGE_PARAMS = {"text": "prompt", "image": "image", "mask": "mask"}


def image_routes(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter()

    @routes.post("/v1/images/generations")
    async def generate(http: HttpRequest) -> Response:
        """Draw pictures of a description."""
        body = parse_body(ImageBody, await json_body(http, service))
        service.check_text(body.prompt, "prompt")
        return await _respond(http, service, body, Inputs(body.prompt), "image_generation")

    @routes.post("/v1/images/edits")
    async def edit(http: HttpRequest) -> Response:
        """Repaint the part of a picture that a mask leaves open."""
        form = await read_form(http, service, "image", "image[]", "mask")
        body = parse_body(EditBody, form.fields)
        image = form.file("image", "image[]")
        if "mask" not in form.files:
            raise ApiError(
                400, "this model edits the part of a picture that a 'mask' leaves open; send one",
                param="mask", code="missing_required_parameter",
            )  # fmt: skip
        inputs = await service.inputs(
            body.prompt, image, mask=form.file("mask"), params={"text": "prompt"}
        )
        return await _respond(http, service, body, inputs, "image_edit")

    return routes


async def _respond(
    http: HttpRequest, service: Service, body: ImageBody, inputs: Inputs, kind: str
) -> Response:
    service.check_model(body.model)
    wanted = _requests(service, body, inputs)
    if body.stream:
        return EventStream(await started(http, _stream(service, body, wanted, kind)))
    results = await service.answers(http, wanted, IMAGE_PARAMS)
    return JSONResponse(await service.worker.off_loop(_answer, service, body, results))


def _requests(service: Service, body: ImageBody, inputs: Inputs) -> list[Request]:
    count = body.n or 1
    if count > service.limits.choices:
        raise ApiError(
            400, f"n is {count}; this server gives up to {service.limits.choices}", param="n",
            code="integer_above_max_value",
        )  # fmt: skip
    task = partial_task("image") if inputs.mask is not None else direct_task("text", "image")
    if body.negative_prompt:
        task = with_negative(task, body.negative_prompt, body.guidance_scale, service.model)
    return [
        service.ask(task, inputs, body.overrides(choice), IMAGE_PARAMS, preset=body.preset)
        for choice in range(count)
    ]


def _answer(service: Service, body: ImageBody, results: list[Result]) -> dict[str, Any]:
    pictures = [_final(result, body) for result in results]
    data = []
    for picture in pictures:
        encoded = _encoded(picture, body)
        shown = {}
        if body.response_format == "url":
            shown["url"] = data_uri(encoded, f"image/{body.output_format or 'png'}")
        else:
            shown["b64_json"] = base64_of(encoded)
        data.append(shown)
    return {
        "created": int(time.time()),
        "data": data,
        **_published(_facts(pictures[0], body)),
        "usage": _usage(results, service),
    }


async def _stream(
    service: Service, body: ImageBody, wanted: list[Request], kind: str
) -> AsyncIterator[bytes]:
    for request in wanted:
        deltas = Deltas(service.model, previews=body.partial_images or 0)
        async with service.following(request) as (ticket, feed):
            number = 0
            async for update, found in service.news(ticket, feed, deltas):
                for delta in found:
                    if isinstance(delta, PictureDelta) and number < (body.partial_images or 0):
                        picture = _sized(delta.picture, body)
                        yield await service.worker.off_loop(
                            _event, f"{kind}.partial_image", picture, body,
                            {"partial_image_index": number},
                        )  # fmt: skip
                        number += 1
                if update.result is not None and update.result.error is None:
                    picture = _final(update.result, body)
                    usage = _usage([update.result], service)
                    yield await service.worker.off_loop(
                        _event, f"{kind}.completed", picture, body, {"usage": usage}
                    )


def _event(name: str, picture: Picture, body: ImageBody, more: dict[str, Any]) -> bytes:
    shown = {
        "type": name,
        "b64_json": base64_of(_encoded(picture, body)),
        "created_at": int(time.time()),
        **_facts(picture, body),
        **more,
    }
    return event(shown, name)


def _published(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without those that OpenAI's description allows no such value for."""
    return {
        name: value
        for name, value in facts.items()
        if name != "quality" and (name != "size" or value in PUBLISHED_SIZES)
    }


def _facts(picture: Picture, body: ImageBody) -> dict[str, Any]:
    return {
        "size": f"{picture.width}x{picture.height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": body.output_format or "png",
    }


def _final(result: Result, body: ImageBody) -> Picture:
    for part in result.parts:
        if isinstance(part, Image):
            return _sized(part.picture, body)
    raise ModelError("the answer has no picture; ask again with another seed")


def _sized(picture: Picture, body: ImageBody) -> Picture:
    if body.size is None or body.size == "auto":
        return picture
    width, height = body.size.split("x")
    return scaled(picture, int(width), int(height))


def _encoded(picture: Picture, body: ImageBody) -> bytes:
    return encoded_picture(picture, body.output_format or "png", body.output_compression)


def _usage(results: list[Result], service: Service) -> dict[str, Any]:
    counted = usage_of(results, service.model)
    text = counted["prompt_tokens"]
    return {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "total_tokens": counted["total_tokens"],
    }

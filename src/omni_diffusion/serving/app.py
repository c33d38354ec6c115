"""The app: all routes over one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from omni_diffusion.engine.ask import Inputs
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.faults import ApiError, api_error
from omni_diffusion.serving.gate import Gate
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.metrics import Metrics
from omni_diffusion.serving.routes.audio import audio_routes
from omni_diffusion.serving.routes.chat import chat_routes
from omni_diffusion.serving.routes.files import page_routes
from omni_diffusion.serving.routes.images import image_routes
from omni_diffusion.serving.routes.native import job_routes, native_routes
from omni_diffusion.serving.routes.status import status_routes
from omni_diffusion.serving.service import Service
from omni_diffusion.serving.worker import Worker


def open_service(
    model: OmniModel,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    max_batch: int = 8,
    codec_threads: int = 2,
    examples: Mapping[str, Sequence[Inputs]] | None = None,
    about: str | None = None,
) -> Service:
    """A running service: its engine's thread waits for requests.

    name: what clients call the model; None takes its own. examples: inputs by task that the page
    offers. about: what the model knows, in a sentence or two.
    """
    limits, metrics = limits or Limits(), Metrics()
    worker = Worker(model, limits, metrics, max_batch=max_batch, codec_threads=codec_threads)
    return Service(
        model,
        name or model.config.name,
        limits,
        metrics,
        worker,
        dict(examples or {}),
        about,
    )


def create_app(
    service: Service,
    *,
    key: str | None = None,
    origins: tuple[str, ...] = (),
    local: bool = False,
    jobs: bool = True,
) -> ASGIApp:
    """The app of a service; when it shuts down, what runs is finished and the thread ends.

    key, origins, local: see `Gate`. jobs: with jobs, and the page, which watches them; False where
    several processes answer under one address, since a job lives in one.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        if service.background:
            await asyncio.wait(service.background, timeout=service.limits.stall)
        service.worker.close()

    app = FastAPI(
        title="omni-diffusion", lifespan=life, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for routes in (status_routes, chat_routes, image_routes, audio_routes, native_routes):
        app.include_router(routes(service))
    if jobs:
        app.include_router(page_routes())
        app.include_router(job_routes(service))
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ApiError, _refusal)
    app.add_exception_handler(Exception, _refusal)  # the gate logs it
    return Gate(app, service, key=key, origins=origins, local=local)


async def _http_error(http: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = (
        f"Invalid URL ({http.method} {http.url.path})" if error.status_code == 404 else error.detail
    )
    found = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    return JSONResponse(found.body, found.status, headers=found.headers)


async def _refusal(_: Request, error: Exception) -> Response:
    found: Any = api_error(error)
    return JSONResponse(found.body, found.status, headers=found.headers)

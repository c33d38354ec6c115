"""Routes about the server: models, health, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from omni_diffusion.serving.faults import draining
from omni_diffusion.serving.service import Service


def status_routes(service: Service) -> APIRouter:
    """The routes of one service."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Response:
        """200 while the engine's thread runs."""
        alive = service.worker.alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @routes.get("/ready")
    async def ready() -> Response:
        """200 while requests are accepted; 503 while the server shuts down."""
        if service.worker.draining or not service.worker.alive:
            raise draining()
        return JSONResponse({"status": "ready", "waiting": service.worker.waiting})

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model of this server."""
        return {"object": "list", "data": [_model(service)]}

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """The model by its name."""
        service.check_model(name)
        return _model(service)

    return routes


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "omni-diffusion",
        "modalities": {"input": ["text", "image", "audio"], "output": ["text", "image", "audio"]},
        "max_model_len": service.model.max_positions,
        "parameters": sum(each.numel() for each in service.model.backbone.parameters()),
        "device": str(service.model.device),
        "about": service.about,
    }

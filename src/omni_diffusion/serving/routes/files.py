"""The page at /, and the files beside it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from omni_diffusion.serving.page import HEADERS, assets


def page_routes() -> APIRouter:
    """A route for each file of the page."""
    routes = APIRouter()
    for path, asset in assets().items():
        response = Response(asset.body, media_type=asset.content_type, headers=HEADERS)
        routes.add_api_route(
            path, _sends(response), methods=["GET"], include_in_schema=False, name=path
        )
    return routes


def _sends(response: Response):  # type: ignore[no-untyped-def]
    async def send() -> Response:
        return response

    return send

"""Errors as OpenAI's API writes them: a status, and a body with message, type, param and code."""

from __future__ import annotations

import json
import logging
from typing import Any

from omni_diffusion.errors import (
    ConfigError,
    DataError,
    MediaError,
    OmniError,
    SamplingError,
    TaskError,
)

LOG = logging.getLogger("omni_diffusion.serving")
USER_ERRORS = (MediaError, TaskError, SamplingError, ConfigError, DataError)  # the others are ours
PARAMS = {  # field of an error -> parameter of the API, where the names differ
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "speech": "audio",
    "text": "input",
    "conversation": "messages",
}


class ApiError(Exception):
    """An answer that is an error; `headers` go with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def json(self) -> bytes:
        """The body as bytes."""
        return json.dumps(self.body).encode()


def api_error(error: Exception, params: dict[str, str] | None = None) -> ApiError:
    """The answer to an exception; `params`: the route's own names of fields.

    A user's mistake is a 400. Anything else is a 500 that shows no more than its kind.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, USER_ERRORS):
        names = {**PARAMS, **(params or {})}
        param = None if error.field is None else names.get(error.field, error.field)
        return ApiError(400, str(error), param=param, code="invalid_value")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ApiError(
            503, "the request did not fit into memory; make it smaller", code="out_of_memory",
            kind="server_error",
        )  # fmt: skip
    if isinstance(error, OmniError):
        return ApiError(500, str(error), kind="server_error", code="model_error")
    message = f"the server failed on this request ({type(error).__name__}); other requests go on"
    return ApiError(500, message, kind="server_error", code="internal_error")


def unsupported(name: str, why: str) -> ApiError:
    """A parameter that OpenAI has and this model has not."""
    return ApiError(
        400,
        f"Unsupported parameter: '{name}'; {why}",
        param=name,
        code="unsupported_parameter",
    )


def busy(waiting: int, seconds: float) -> ApiError:
    """The queue is full; try again after `seconds`."""
    return ApiError(
        429,
        f"{waiting} requests wait already; try again in {seconds:.0f} s",
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        headers={"Retry-After": f"{max(1, round(seconds))}"},
    )


def draining() -> ApiError:
    """The server is about to end."""
    return ApiError(
        503,
        "the server is shutting down; try again in a moment",
        code="shutting_down",
        kind="server_error",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def too_late(seconds: float) -> ApiError:
    """The request took longer than the server allows."""
    return ApiError(
        504,
        f"the request was not answered within {seconds:g} s",
        code="deadline_exceeded",
        kind="server_error",
    )


def cancelled() -> ApiError:
    """The request was ended by its client or by the server's end."""
    return ApiError(503, "the request was cancelled", code="cancelled", kind="server_error")

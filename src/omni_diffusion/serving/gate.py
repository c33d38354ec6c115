"""What stands before every route: the key, limits of bytes and of time, counts, and errors.

Plain ASGI, so that nothing of a body is read before it is allowed, and streams pass unbuffered.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_diffusion.serving import faults
from omni_diffusion.serving.faults import LOG, ApiError, api_error
from omni_diffusion.serving.service import Service

MOST_HEADERS = 100
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class Gate:
    """Wraps an app.

    key: what clients send as `Authorization: Bearer KEY` to /v1; None asks for nothing. origins:
    pages of other addresses that may call. local: refuse other names of this machine than those of
    the loopback, which a foreign page could have made.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        *,
        key: str | None = None,
        origins: tuple[str, ...] = (),
        local: bool = False,
    ) -> None:
        self.app, self.service, self.origins, self.local = app, service, origins, local
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passing = _Passing(self.service, receive, send)
        try:
            self._check(scope)
            await self.app(scope, passing.receive, passing.send)
        except ClientDisconnect:
            pass
        except Exception as error:
            if passing.gone:
                return
            found = api_error(error)
            if found.code in ("internal_error", "model_error"):
                LOG.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if not passing.began:
                await passing.refuse(found)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(path, str(passing.status)).inc()

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.local and _hostname(f"//{host}") not in LOOPBACK:
            raise ApiError(403, f"the host {host!r} is not the loopback; call 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != host:
            raise ApiError(
                403, f"pages of {origin} may not call this server; see --allowed-origin",
                code="forbidden_origin",
            )  # fmt: skip
        if len(scope["headers"]) > MOST_HEADERS:
            raise ApiError(431, f"the request has more than {MOST_HEADERS} headers")
        preflight = scope["method"] == "OPTIONS"  # asks before a page calls; it carries no key
        if self._key is not None and path.startswith("/v1") and not preflight:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode(), self._key
            ):
                raise ApiError(
                    401, "Incorrect API key provided.", code="invalid_api_key",
                    kind="authentication_error", headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        if self.service.worker.draining and scope["method"] == "POST":
            raise faults.draining()
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.service.limits.body:
            raise _too_large(self.service.limits.body)


class _Passing:
    """One request on its way: counts its bytes, and ends it when it stalls."""

    def __init__(self, service: Service, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = service.limits, receive, send
        self._read = 0
        self._body_over = False
        self.began, self.gone, self.status = False, False, 499

    async def receive(self) -> Message:
        """The next piece of the body, in time and within the limit."""
        if self._body_over:
            message = await self._receive()  # waits for the client to leave
        else:
            try:
                message = await asyncio.wait_for(self._receive(), self._limits.stall)
            except TimeoutError:
                raise ApiError(
                    408, f"no byte of the body came for {self._limits.stall:g} s",
                    code="request_timeout", headers={"Connection": "close"},
                ) from None  # fmt: skip
        if message["type"] == "http.disconnect":
            self.gone = True
        else:
            self._read += len(message.get("body", b""))
            self._body_over = not message.get("more_body", False)
        if self._read > self._limits.body:
            raise _too_large(self._limits.body)
        return message

    async def send(self, message: Message) -> None:
        """Pass a piece of the answer on; a client that takes none for long is left."""
        if self.gone:
            return
        if message["type"] == "http.response.start":
            self.began, self.status = True, message["status"]
        try:
            await asyncio.wait_for(self._send(message), self._limits.stall)
        except TimeoutError:
            self.gone = True
            raise ClientDisconnect from None

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error."""
        body = error.json
        headers: dict[str, Any] = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **error.headers,
        }
        if not self._body_over:  # what is left of the body is not read
            headers["connection"] = "close"
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {limit:,} bytes", code="body_too_large",
        headers={"Connection": "close"},
    )  # fmt: skip


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None

"""Run an app on a listening socket until a signal, then end it in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from omni_diffusion.serving.service import Service


class Server(uvicorn.Server):
    """Stops to accept requests the moment a signal comes, also on connections that are open."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; a connection whose client takes no byte for long is dropped by the system."""
        option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # only Linux has it
        if option is not None:
            for each in sockets or []:  # connections inherit it
                each.setsockopt(socket.IPPROTO_TCP, option, round(1000 * self.service.limits.stall))
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what runs; what takes longer than the limit is cancelled, and says so."""
        self.service.worker.draining = True
        limit = self.service.limits.drain
        draining = asyncio.create_task(self.service.worker.drain(limit))
        await super().shutdown(sockets)
        await draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second one ends at once."""
        self.service.worker.draining = True
        super().handle_exit(sig, frame)


def make_server(app: ASGIApp, service: Service) -> Server:
    """A server of the app, without a log of every request."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(service.limits.drain) + 5,
        http="h11",  # refuses heads of more than 64 KiB
        ws="none",
        loop="asyncio",
        backlog=2048,
    )
    return Server(config, service)


def serve_app(app: ASGIApp, service: Service, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; both end in order, so neither is an error."""
    # uvicorn raises the signal again when it is done: it then finds these.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    make_server(app, service).run(sockets=[listening])

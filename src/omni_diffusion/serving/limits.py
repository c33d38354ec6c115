"""What one request may cost: bytes, pixels, seconds, tokens, waiting."""

from __future__ import annotations

from dataclasses import dataclass, fields

from omni_diffusion.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Upper bounds; what exceeds one is refused before it is decoded or queued.

    body: bytes of a request. pixels: of a picture. audio_seconds: of a recording. text: characters
    of a text or a conversation. queue: requests that wait. choices: answers of one request (`n`).
    deadline: seconds from a request's arrival to its answer. stall: seconds that a client may keep
    a body or an answer from moving. jobs: jobs that are kept. job_seconds: how long a finished job
    is kept. drain: seconds that running requests get after SIGTERM.
    """

    body: int = 25 * 2**20
    pixels: int = 20_000_000
    audio_seconds: float = 120.0
    text: int = 20_000
    queue: int = 64
    choices: int = 8
    deadline: float = 300.0
    stall: float = 60.0
    jobs: int = 256
    job_seconds: float = 900.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ConfigError(
                    f"{each.name} is {value}",
                    field=each.name,
                    value=value,
                    fix="give a number above 0",
                )

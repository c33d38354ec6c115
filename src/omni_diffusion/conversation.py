"""What was said: messages of text, pictures and speech. Knows nothing of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture, Waveform

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture."""

    picture: Picture


@dataclass(frozen=True)
class Speech:
    """Spoken words."""

    waveform: Waveform


Part: TypeAlias = Text | Image | Speech


@dataclass(frozen=True)
class Message:
    """What one speaker says in one turn; the order of the parts is the order of the prompt."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise TaskError(
                f"role {self.role!r} is unknown; give one of {', '.join(get_args(Role))}"
            )
        for part in self.parts:
            if not isinstance(part, (Text, Image, Speech)):
                raise TaskError(f"{part!r} is no part of a message; give Text, Image or Speech")


Conversation: TypeAlias = tuple[Message, ...]

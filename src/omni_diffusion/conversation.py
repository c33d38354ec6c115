"""Messages and their parts: media, encoded media, and parts that are masked wholly or partly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.vocab import Kind

Role: TypeAlias = Literal["system", "user", "assistant"]


# ----------------------------------------------------------------------------------------- media
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
    """Recorded or synthesized speech."""

    waveform: Waveform


@dataclass(frozen=True, eq=False)
class PartialImage:
    """A picture of which a hole is to be painted: `hole` bool [H, W], True inside of it."""

    picture: Picture
    hole: Tensor

    def __post_init__(self) -> None:
        size = (self.picture.height, self.picture.width)
        if tuple(self.hole.shape) != size or self.hole.dtype != torch.bool:
            raise TaskError(
                f"the hole is {self.hole.dtype} {tuple(self.hole.shape)}",
                field="hole",
                fix=f"give bool {size}, the picture's height and width",
            )


@dataclass(frozen=True, eq=False)
class PartialSpeech:
    """A recording of which gaps are to be spoken: (start, stop) in seconds."""

    waveform: Waveform
    gaps: tuple[tuple[float, float], ...]


# --------------------------------------------------------------------------------- encoded parts
@dataclass(frozen=True, eq=False)
class Codes:
    """Known local ids [n] of one kind."""

    kind: Kind
    ids: Tensor

    def __len__(self) -> int:
        return self.ids.numel()


@dataclass(frozen=True, eq=False)
class Frames:
    """Speech input: frames [n, dim] of the speech encoder."""

    frames: Tensor


@dataclass(frozen=True)
class Blank:
    """A part that is masked whole: `length` tokens of one kind."""

    kind: Kind
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise TaskError(
                f"a blank of {self.length} {self.kind} tokens",
                field="length",
                value=self.length,
                fix="give 1 or more",
            )

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, eq=False)
class Partial:
    """A part that is masked in places: local ids [n], and `blank` bool [n], True where masked.

    source: the picture with its hole, where the codes come from one; the pixels outside of the
    hole are restored from it at the end.
    """

    kind: Kind
    ids: Tensor
    blank: Tensor
    source: PartialImage | None = None

    def __post_init__(self) -> None:
        if self.ids.shape != self.blank.shape or self.blank.dtype != torch.bool:
            raise TaskError(
                f"a partial {self.kind} has {tuple(self.ids.shape)} ids and blanks of"
                f" {self.blank.dtype} {tuple(self.blank.shape)}",
                field="blank",
                fix="give one bool for each id",
            )

    def __len__(self) -> int:
        return self.ids.numel()


Part: TypeAlias = Text | Image | Speech
"""What an answer is made of."""
EncodedPart: TypeAlias = Text | Codes | Frames | Blank | Partial
"""What a turn is made of; text stays text, since neighbouring texts are tokenized together."""
AnyPart: TypeAlias = Part | PartialImage | PartialSpeech | EncodedPart


# -------------------------------------------------------------------------------------- messages
@dataclass(frozen=True)
class Message:
    """One speaker's turn in a conversation; the order of the parts is the order of the prompt.

    A part is media (Text, Image, Speech), partly masked (PartialImage, PartialSpeech, Partial),
    masked (Blank) or encoded already (Codes, Frames). Raises TaskError for another role or part.
    """

    role: Role
    parts: tuple[AnyPart, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise TaskError(
                f"role {self.role!r} is unknown",
                field="role",
                value=self.role,
                fix=f"give one of {', '.join(get_args(Role))}",
            )
        for part in self.parts:
            if not isinstance(part, get_args(AnyPart)):
                raise TaskError(
                    f"{part!r} cannot be a part of a message",
                    field="parts",
                    value=part,
                    fix="give Text, Image, Speech, codes or a Blank",
                )


@dataclass(frozen=True)
class Turn:
    """A message whose parts are all encoded."""

    role: Role
    parts: tuple[EncodedPart, ...]

    @property
    def open(self) -> bool:
        """Whether any token of it is masked."""
        return any(
            isinstance(part, Blank) or (isinstance(part, Partial) and bool(part.blank.any()))
            for part in self.parts
        )


Conversation: TypeAlias = Sequence[Message | Turn]


def text_of(parts: Sequence[Part]) -> str:
    """The text of an answer, without white space around it."""
    return "".join(part.text for part in parts if isinstance(part, Text)).strip()

"""What a turn is made of once media are encoded: known codes, frames, and what is still unknown.

The media side (Text, Image, Speech) is `conversation`; here also stand pictures and recordings of
which a part is to be made anew. Knows no codec, no global id and no canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from omni_diffusion.conversation import Part, Role, Text
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture, Waveform

Kind: TypeAlias = Literal["text", "image", "speech"]


@dataclass(frozen=True, eq=False)
class Codes:
    """Known local ids [n] of one kind."""

    kind: Kind
    ids: Tensor

    def __len__(self) -> int:
        return self.ids.numel()


@dataclass(frozen=True, eq=False)
class Frames:
    """Speech that is heard: frames [n, dim] of the hearing codec."""

    frames: Tensor


@dataclass(frozen=True)
class Blank:
    """A wholly unknown part of `length` tokens."""

    kind: Kind
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise TaskError(f"a blank of {self.length} {self.kind} tokens; give 1 or more")

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, eq=False)
class PartialImage:
    """A picture with a hole: `hole` bool [H, W] is True where it is to be painted anew."""

    picture: Picture
    hole: Tensor

    def __post_init__(self) -> None:
        size = (self.picture.height, self.picture.width)
        if tuple(self.hole.shape) != size or self.hole.dtype != torch.bool:
            raise TaskError(
                f"the hole is {self.hole.dtype} {tuple(self.hole.shape)}; give bool"
                f" {size}, the picture's height and width"
            )


@dataclass(frozen=True, eq=False)
class PartialSpeech:
    """A recording with gaps: (start, stop) in seconds, to be spoken anew."""

    waveform: Waveform
    gaps: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Partial:
    """A partly known part: local ids [n] and which of them are unknown [n] (True = blank).

    source: the picture with its hole, where it was one; what lies outside of the hole is taken
    from it at the end.
    """

    kind: Kind
    ids: Tensor
    blank: Tensor
    source: PartialImage | None = None

    def __post_init__(self) -> None:
        if self.ids.shape != self.blank.shape or self.blank.dtype != torch.bool:
            raise TaskError(
                f"a partial {self.kind} has {tuple(self.ids.shape)} ids and blanks of"
                f" {self.blank.dtype} {tuple(self.blank.shape)}; give one bool for each id"
            )

    def __len__(self) -> int:
        return self.ids.numel()


Unknown: TypeAlias = Blank | Partial
Piece: TypeAlias = Text | Codes | Frames | Unknown
Source: TypeAlias = Part | PartialImage | PartialSpeech | Piece


@dataclass(frozen=True)
class Turn:
    """A message of which every part is encoded (text stays text: its neighbours join it)."""

    role: Role
    parts: tuple[Piece, ...]

    @property
    def open(self) -> bool:
        """Whether anything of it is unknown."""
        return any(
            isinstance(part, Blank) or (isinstance(part, Partial) and bool(part.blank.any()))
            for part in self.parts
        )


@dataclass(frozen=True)
class Draft:
    """A message whose parts may also be encoded already, partly known or blank."""

    role: Role
    parts: tuple[Source, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise TaskError(
                f"role {self.role!r} is unknown; give one of {', '.join(get_args(Role))}"
            )
        for part in self.parts:
            if not isinstance(part, get_args(Source)):
                raise TaskError(f"{part!r} is no part of a draft; give media, codes or a Blank")

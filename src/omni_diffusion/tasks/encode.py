"""The media of a conversation as codes and frames, by the codecs of one model.

What a user says is heard as frames, what the assistant says is codes; a user's picture is seen at
the understanding size, any other at the generation size. Knows no global id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import Image, Message, Speech
from omni_diffusion.tasks.infill import partial_picture, partial_speech
from omni_diffusion.tasks.parts import (
    Codes,
    Draft,
    Frames,
    PartialImage,
    PartialSpeech,
    Piece,
    Source,
    Turn,
)

Spoken: TypeAlias = Message | Draft | Turn
"""A message, with or without parts that are encoded already or unknown."""


def encode(conversation: Sequence[Spoken], codecs: CodecSuite) -> tuple[Turn, ...]:
    """Every message as a turn. Raises MediaError for media that a codec cannot take."""
    return tuple(
        Turn(message.role, tuple(_piece(part, message.role, codecs) for part in message.parts))
        for message in conversation
    )


def _piece(part: Source, role: str, codecs: CodecSuite) -> Piece:
    if isinstance(part, Image):
        sizes = codecs.image.config
        size = sizes.understanding_size if role == "user" else sizes.generation_size
        return Codes("image", codecs.image.encode(part.picture, size).cpu())
    if isinstance(part, Speech):
        if role == "user":
            return Frames(codecs.hearing.encode(part.waveform).cpu())
        return Codes("speech", codecs.speech.encode(part.waveform).cpu())
    if isinstance(part, PartialImage):
        return partial_picture(part, codecs.image)
    if isinstance(part, PartialSpeech):
        return partial_speech(part, codecs.speech)
    return part

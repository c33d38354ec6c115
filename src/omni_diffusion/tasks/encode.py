"""The media of a conversation as codes and frames, by the codecs of one model.

What a user says is heard as frames, what the assistant says is codes; a user's picture is seen at
the understanding size, any other at the generation size. Knows no global id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeAlias

from omni_diffusion.codecs.magvit2 import square
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import Image, Message, Speech
from omni_diffusion.errors import MediaError
from omni_diffusion.media import Picture
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


def fitted(conversation: Sequence[Message], codecs: CodecSuite) -> tuple[Message, ...]:
    """The messages with their pictures cut to what the codec sees, which changes no code.

    It may be done ahead, in another thread. Raises MediaError for a picture that is a strip.
    """
    return tuple(
        Message(
            message.role,
            tuple(
                Image(square(part.picture, _size(message.role, codecs)))
                if isinstance(part, Image)
                else part
                for part in message.parts
            ),
        )
        for message in conversation
    )


def encode_together(
    conversations: Sequence[Sequence[Message]], codecs: CodecSuite, most: int
) -> list[tuple[Turn, ...] | MediaError]:
    """For each conversation, as `fitted` gives it, its turns or what is wrong with its media.

    Pictures of one size go through the codec together, `most` at once. Sounds go one by one: those
    of a batch are padded to one length and come out otherwise in their last bits.
    """
    pictures: dict[int, list[Picture]] = {}
    for message in chain.from_iterable(conversations):
        some = pictures.setdefault(_size(message.role, codecs), [])
        some += [part.picture for part in message.parts if isinstance(part, Image)]
    codes = {size: _codes(some, size, codecs, most) for size, some in pictures.items()}

    def seen(message: Message) -> Draft:
        waiting = codes[_size(message.role, codecs)]
        parts = (next(waiting) if isinstance(part, Image) else part for part in message.parts)
        return Draft(message.role, tuple(parts))

    found = list[tuple[Turn, ...] | MediaError]()
    for conversation in conversations:
        drafts = [seen(message) for message in conversation]
        try:
            found.append(encode(drafts, codecs))
        except MediaError as error:
            found.append(error)
    return found


def _codes(
    pictures: Sequence[Picture], size: int, codecs: CodecSuite, most: int
) -> Iterator[Codes]:
    for start in range(0, len(pictures), most):
        for ids in codecs.image.encode_batch(pictures[start : start + most], size).cpu():
            yield Codes("image", ids)


def _size(role: str, codecs: CodecSuite) -> int:
    sizes = codecs.image.config
    return sizes.understanding_size if role == "user" else sizes.generation_size


def _piece(part: Source, role: str, codecs: CodecSuite) -> Piece:
    if isinstance(part, Image):
        return Codes("image", codecs.image.encode(part.picture, _size(role, codecs)).cpu())
    if isinstance(part, Speech):
        if role == "user":
            return Frames(codecs.hearing.encode(part.waveform).cpu())
        return Codes("speech", codecs.speech.encode(part.waveform).cpu())
    if isinstance(part, PartialImage):
        return partial_picture(part, codecs.image)
    if isinstance(part, PartialSpeech):
        return partial_speech(part, codecs.speech)
    return part

"""Encode the media of a conversation by the codecs of one model.

A user's speech becomes frames, the assistant's becomes codes. A user's picture is encoded at the
understanding size, any other at the generation size. Ids are local.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from omni_diffusion.codecs.magvit2 import square
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import (
    AnyPart,
    Codes,
    Conversation,
    EncodedPart,
    Frames,
    Image,
    Message,
    PartialImage,
    PartialSpeech,
    Speech,
    Turn,
)
from omni_diffusion.errors import MediaError
from omni_diffusion.media import Picture
from omni_diffusion.tasks.infill import partial_picture, partial_speech


def encode(conversation: Conversation, codecs: CodecSuite) -> tuple[Turn, ...]:
    """Every message as a turn. Raises MediaError for media that a codec cannot take."""
    return tuple(
        Turn(message.role, tuple(_piece(part, message.role, codecs) for part in message.parts))
        for message in conversation
    )


def fitted(conversation: Sequence[Message], codecs: CodecSuite) -> tuple[Message, ...]:
    """The messages with their pictures cropped to what the codec encodes; the codes stay the same.

    Another thread may do this ahead. Raises MediaError for a picture that is too narrow.
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
    """For each conversation, as `fitted` gives it, its turns, or the error of its media.

    Pictures of one size are encoded in batches of up to `most`. Recordings are encoded one by one:
    padding to a common length would change the last bits of their frames.
    """
    pictures: dict[int, list[Picture]] = {}
    for message in chain.from_iterable(conversations):
        some = pictures.setdefault(_size(message.role, codecs), [])
        some += [part.picture for part in message.parts if isinstance(part, Image)]
    codes = {size: _codes(some, size, codecs, most) for size, some in pictures.items()}

    def with_codes(message: Message) -> Message:
        waiting = codes[_size(message.role, codecs)]
        parts = (next(waiting) if isinstance(part, Image) else part for part in message.parts)
        return Message(message.role, tuple(parts))

    encoded = list[tuple[Turn, ...] | MediaError]()
    for conversation in conversations:
        messages = [with_codes(message) for message in conversation]
        try:
            encoded.append(encode(messages, codecs))
        except MediaError as error:
            encoded.append(error)
    return encoded


def _codes(
    pictures: Sequence[Picture], size: int, codecs: CodecSuite, most: int
) -> Iterator[Codes]:
    for start in range(0, len(pictures), most):
        for ids in codecs.image.encode_batch(pictures[start : start + most], size).cpu():
            yield Codes("image", ids)


def _size(role: str, codecs: CodecSuite) -> int:
    sizes = codecs.image.config
    return sizes.understanding_size if role == "user" else sizes.generation_size


def _piece(part: AnyPart, role: str, codecs: CodecSuite) -> EncodedPart:
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
